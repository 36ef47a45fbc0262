package lab

import "fmt"

// SetPort puts a port of the switch up or down: the host behind it has a carrier or none. Ports count from 0 in the order
// of Connect.
func (s *Switch) SetPort(port int, up bool) { s.host.SetLink(portName(port), up) }

// Isolate keeps frames from passing between isolated ports, for which nothing else changes, until it is undone.
func (s *Switch) Isolate(port int, isolated bool) { s.host.net.must(s.isolate(port, isolated)) }

func (s *Switch) isolate(port int, isolated bool) error {
	link, err := s.host.links.LinkByName(portName(port))
	if err == nil {
		err = s.host.links.LinkSetIsolated(link, isolated)
	}
	return s.host.wrap("isolate "+portName(port), err)
}

func portName(port int) string { return fmt.Sprintf("port%d", port) }
