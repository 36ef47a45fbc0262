package main

// Services that several tests configure.
const (
	web = `
[[service]]
name = "web"
listen = ["192.0.2.10:80"]
scheduler = "rr"
forward = "nat"
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }]
`
	leaving = `
[[service]]
name = "leaving"
listen = ["192.0.2.10:81"]
scheduler = "rr"
forward = "nat"
server = [{ address = "10.0.0.21" }]
`
	coming = `
[[service]]
name = "coming"
listen = ["192.0.2.10:82"]
scheduler = "rr"
forward = "nat"
server = [{ address = "10.0.0.22" }]
`
	weighted = `
[[service]]
name = "weighted"
listen = ["192.0.2.10:83"]
scheduler = "wrr"
forward = "nat"
server = [{ address = "10.0.0.21" }, { address = "10.0.0.22" }]
`

	checkedWeb = web + `
[service.check]
type = "http"
path = "/healthz"
interval = "1s"
timeout = "1s"
`
)

// How the kernel has them.
const (
	webLine      = "tcp 192.0.2.10:80 rr: 10.0.0.21:80 nat 1, 10.0.0.22:80 nat 1"
	leavingLine  = "tcp 192.0.2.10:81 rr: 10.0.0.21:81 nat 1"
	comingLine   = "tcp 192.0.2.10:82 rr: 10.0.0.22:82 nat 1"
	weightedLine = "tcp 192.0.2.10:83 wrr: 10.0.0.21:83 nat 1, 10.0.0.22:83 nat 1"
)
