package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The arrows between the rooms. A room may import, of ours, only what stands here.
var arrows = []struct {
	room    string
	imports []string
	because string
}{
	{"poise/ipvsctl", nil, "the engines serve other programs too: they know neither each other nor our configuration"},
	{"poise/ipvsctl/adm", []string{"poise/ipvsctl"}, "ipvsadm is a way to talk to the table, and knows of nothing else"},
	{"poise/checker", nil, "the engines serve other programs too: they know neither each other nor our configuration"},
	{"poise/vrrp", nil, "the engines serve other programs too: they know neither each other nor our configuration"},
	{"poise/config", []string{"poise/checker", "poise/ipvsctl", "poise/vrrp"}, "the configuration fills in the engines' own types and knows nothing of processes"},
	{"poise/internal/host", nil, "the writers of kernel resources are leaves: others plan and ask them"},
	{"poise/internal/nft", nil, "the writers of kernel resources are leaves: others plan and ask them"},
	{"poise/internal/finding", nil, "what an examination says is said the same way by all"},
	{"poise/internal/realserver", []string{"poise/internal/finding", "poise/internal/host", "poise/internal/nft"}, "a planner over host and nft; a real server needs no director"},
	{"poise/internal/status", []string{"poise/checker", "poise/ipvsctl", "poise/vrrp"}, "the views of what is true need no machinery that makes it true"},
	{"poise/internal/director", []string{
		"poise/config", "poise/checker", "poise/ipvsctl", "poise/vrrp", "poise/internal/host", "poise/internal/nft", "poise/internal/status",
	}, "the one place that wires, below the commands"},
	{"poise/internal/through", []string{"poise/ipvsctl", "poise/internal/host", "poise/internal/nft"}, "what is asked through a virtual address is for others to say"},
	{"poise/internal/doctor", []string{
		"poise/config", "poise/checker", "poise/ipvsctl", "poise/vrrp", "poise/internal/director", "poise/internal/finding",
		"poise/internal/host", "poise/internal/nft", "poise/internal/status", "poise/internal/through",
	}, "an examination asks what the director would do, and never does it"},
	{"poise/cmd/poise", []string{
		"poise/config", "poise/checker", "poise/ipvsctl", "poise/ipvsctl/adm", "poise/vrrp",
		"poise/internal/director", "poise/internal/doctor", "poise/internal/finding", "poise/internal/host", "poise/internal/nft",
		"poise/internal/realserver", "poise/internal/status", "poise/internal/through",
	}, "a command may use everything but the lab and vrrp/sim, which only tests, demo and bench import"},
}

func TestArrowsPointOneWay(t *testing.T) {
	for _, a := range arrows {
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", a.room)
		list.Dir = "../.."
		out, err := list.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", list, err, out)
		}
		for dep := range strings.Lines(string(out)) {
			dep = strings.TrimSpace(dep)
			if strings.HasPrefix(dep, "poise/") && dep != a.room && !slices.Contains(a.imports, dep) {
				t.Errorf("%s imports %s: %s", a.room, dep, a.because)
			}
		}
	}
}
