package main

import (
	"os"

	"github.com/spf13/cobra"

	"poise/ipvsctl/adm"
)

func ipvsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ipvs [ARGUMENT...]",
		Short: "look at the kernel's table and change it by hand, with ipvsadm's own arguments",
		Long: `It takes the arguments of ipvsadm and prints what ipvsadm prints; "poise ipvs -h" lists them. Called by the name
ipvsadm, ipvsadm-save or ipvsadm-restore, poise is that program. docs/ipvsadm.md has the reference.

A table that "poise run" keeps is corrected by it: see "poise hold".`,
		DisableFlagParsing: true, // the grammar is not ours
		Run: func(_ *cobra.Command, args []string) {
			os.Exit(adm.Main(append([]string{"poise ipvs"}, args...), os.Stdin, os.Stdout, os.Stderr))
		},
	}
}
