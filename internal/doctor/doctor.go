// Package doctor examines a director and what is around it: whether what the configuration needs is there.
//
//	kernel.go      permissions, IPVS, sysctls, tables and limits   computed
//	links.go       the interfaces                                  computed
//	routers.go     the adverts of three intervals                  observed
//	neighbours.go  who has the virtual addresses                   probed
//	servers.go     whether servers answer                          probed
//	through.go     whether they do through the virtual addresses   probed
//
// It changes nothing but for the last, which undoes what it changes.
package doctor

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"poise/config"
	"poise/internal/finding"
)

// neighboursTime is how long neighbours have to answer who has an address.
const neighboursTime = time.Second

// Examine looks at this host as one that has to serve cfg. Balancer is the process that does so now, 0
// where there is none.
func Examine(ctx context.Context, cfg *config.Config, balancer int) ([]finding.Finding, error) {
	found, errKernel := kernel(ctx, cfg, balancer)
	findings := append(permissions(cfg), found...)
	where, err := interfacesOf(cfg)
	if err != nil {
		return findings, errors.Join(errKernel, err)
	}
	heard := sync.OnceValues(func() (elections, error) { return routers(ctx, cfg.Routers) })
	around, err := together(
		func() ([]finding.Finding, error) { return links(cfg, where) },
		func() ([]finding.Finding, error) {
			e, err := heard()
			return e.findings, err
		},
		func() ([]finding.Finding, error) {
			return holders(ctx, cfg, where, func() []net.HardwareAddr {
				e, _ := heard()
				return e.directors
			})
		},
		func() ([]finding.Finding, error) { return servers(ctx, cfg) },
	)
	findings = append(findings, around...)
	finding.Refer(findings, "docs/operations.md#examining-a-director")
	return findings, errors.Join(errKernel, err)
}

// together looks at several things at once, as most of them wait for others to speak. What is found stays in order.
func together(looks ...func() ([]finding.Finding, error)) ([]finding.Finding, error) {
	found, errs := make([][]finding.Finding, len(looks)), make([]error, len(looks))
	var wg sync.WaitGroup
	for i, look := range looks {
		wg.Go(func() { found[i], errs[i] = look() })
	}
	wg.Wait()
	return slices.Concat(found...), errors.Join(errs...)
}
