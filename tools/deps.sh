#!/bin/sh
# Installs what poise needs for the purposes named and says what and why; silent when nothing is missing.
#   tools/deps.sh build|demo|test...
#   tools/deps.sh go              prints the path of a Go that is new enough
# Debian's packages are installed as root, without starting or enabling any daemon. Go and the lab's
# kernel go to ${POISE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/poise}. On other systems it names what is missing.
set -eu

cache=${POISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/poise}
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin # not in every user's PATH

go_version=1.26.8 # fetched if no Go is found that satisfies go.mod
kernel_package=linux-image-amd64

# purpose  program or file  package  why
needs='
build git git stamps_the_binary_with_its_version
build /etc/ssl/certs/ca-certificates.crt ca-certificates modules_come_over_TLS
demo ip iproute2 shows_the_hosts_of_the_lab
demo depmod kmod the_kernel_loads_modules
demo qemu-system-x86_64 qemu-system-x86 runs_a_kernel_with_IPVS
demo xz xz-utils unpacks_the_kernel
test gcc gcc the_race_detector_needs_C
test /usr/include/stdlib.h libc6-dev the_race_detector_needs_C
test ip iproute2 a_witness_in_tests
test depmod kmod the_kernel_loads_modules
test qemu-system-x86_64 qemu-system-x86 runs_a_kernel_with_IPVS
test xz xz-utils unpacks_the_kernel
test ipvsadm ipvsadm a_witness_in_tests
test ping iputils-ping the_lab_looks_who_is_there
test nft nftables a_witness_in_tests
test iptables iptables marks_packets_as_users_do_in_tests
test promtool prometheus scrapes_and_judges_metrics
test keepalived keepalived the_other_node_in_tests
'
# Of those, packages which would have a daemon started at the next boot.
daemons='prometheus keepalived'

say() { echo "deps: $*" >&2; }
die() {
	say "$@"
	exit 1
}
have() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}
is_root() { [ "$(id -u)" = 0 ]; }

# quietly runs a command and shows what it said only if it fails.
quietly() {
	if ! output=$("$@" 2>&1); then
		echo "$output" >&2
		die "$* failed"
	fi
}

# Packages.

# missing_for prints "program package why" for everything that the purposes in $1 lack.
missing_for() {
	echo "$needs" | while read -r purpose check package why; do
		case " $1 " in *" $purpose "*) ;; *) continue ;; esac
		case $check in qemu-* | xz) ! running_kernel_has_ipvs || continue ;; esac
		have "$check" || echo "$check $package $why"
	done | sort -u
}

updated=
update_once() {
	[ -z "$updated" ] || return 0
	quietly apt-get -qq update
	updated=yes
}

policy=/usr/sbin/policy-rc.d
mark='# written by poise tools/deps.sh for the time of an installation'

# forbid_daemons has installations start nothing, until allow_daemons. A file of ours that is
# there already is the rest of a killed run, not something to keep.
forbid_daemons() {
	if [ -e $policy ] && ! grep -q "$mark" $policy; then
		mv $policy $policy.poise
	fi
	printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy
	chmod 755 $policy
}
allow_daemons() {
	if grep -qs "$mark" $policy; then
		rm $policy
	fi
	[ ! -e $policy.poise ] || mv $policy.poise $policy
}

install_packages() {
	is_root || die "as root, run: apt-get install --no-install-recommends $*"
	update_once
	trap 'exit 1' INT TERM HUP
	trap allow_daemons EXIT
	forbid_daemons
	DEBIAN_FRONTEND=noninteractive quietly apt-get -qq install -y --no-install-recommends "$@"
	allow_daemons
	trap - INT TERM HUP EXIT
	for daemon in $daemons; do
		case " $* " in *" $daemon "*) quietly update-rc.d "$daemon" disable ;; esac
	done
}

packages() {
	missing=$(missing_for "$1")
	[ -n "$missing" ] || return 0
	if ! have apt-get; then
		say "missing programs:"
		echo "$missing" | cut -d' ' -f1 >&2
		exit 1
	fi
	echo "$missing" | while read -r check package why; do
		say "needs $package: $(echo "$why" | tr _ ' ')"
	done
	# shellcheck disable=SC2046 # one word a package
	install_packages $(echo "$missing" | cut -d' ' -f2 | sort -u)
}

# The lab's kernel.

running_kernel_has_ipvs() {
	is_root || return 1
	[ -e /proc/net/ip_vs ] || modprobe -q ip_vs 2>/dev/null
}

# boots_a_guest tells whether the modules in $1 belong to a kernel the lab can use.
boots_a_guest() {
	[ -r "${1%/lib/modules/*}/boot/vmlinuz-${1##*/}" ] &&
		for module in ip_vs 9p 9pnet_virtio virtio_pci virtio_console overlay; do
			cat "$1/modules.dep" "$1/modules.builtin" 2>/dev/null | grep -q "/$module\.ko" || return 1
		done
}

kernel() {
	! running_kernel_has_ipvs || return 0
	for modules in "$cache"/lab/linux-*/lib/modules/* /lib/modules/*; do
		! boots_a_guest "$modules" || return 0
	done
	have apt-get || die "no kernel with IPVS and 9p in /boot: install one"
	update_once_if_root
	package=$(apt-cache depends $kernel_package 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
	[ -n "$package" ] || die "no package $kernel_package to take a kernel with IPVS from"
	say "unpacking $package into $cache/lab: the running kernel has no IPVS"
	new=$cache/lab/.new.$$
	mkdir -p "$new/root/usr/lib"
	trap 'exit 1' INT TERM HUP
	trap 'rm -rf "$new"' EXIT
	ln -s usr/lib "$new/root/lib" # newer packages have usr/lib/modules
	(cd "$new" && quietly apt-get -qq -o APT::Sandbox::User=root download "$package")
	# Drivers of real hardware are most of the package and no use in a guest.
	dpkg --fsys-tarfile "$new"/*.deb | tar -x -C "$new/root" --keep-directory-symlink \
		--exclude='*/kernel/sound' --exclude='*/kernel/drivers/[!cnv]*' \
		--exclude='*/kernel/drivers/net/ethernet' --exclude='*/kernel/drivers/net/wireless'
	for modules in "$new"/root/lib/modules/*; do
		quietly depmod -b "$new/root" "${modules##*/}"
	done
	rm -rf "$cache"/lab/linux-* "$cache"/lab/vmlinux-*
	mv "$new/root" "$cache/lab/$package"
	rm -rf "$new"
	trap - INT TERM HUP EXIT
}

# apt-get download and apt-cache need package lists, which only root can fetch.
update_once_if_root() {
	if is_root; then
		update_once
	fi
}

# Go.

# find_go prints the first Go that satisfies go.mod.
find_go() {
	minor=$(sed -n 's/^go 1\.\([0-9]*\).*/\1/p' "$root/go.mod")
	for go in "$(command -v go || true)" /usr/local/go/bin/go "$cache/go/bin/go"; do
		[ -x "$go" ] || continue
		# local: a newer Go would else download what go.mod asks for.
		found=$(GOTOOLCHAIN=local "$go" version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p')
		if [ "${found:-0}" -ge "$minor" ]; then
			echo "$go"
			return
		fi
	done
	return 1
}

go_toolchain() {
	! find_go >/dev/null || return 0
	if ! have go; then
		have apt-get || die "missing program: go, $go_version or newer"
		say "needs golang-go: it fetches Go $go_version"
		install_packages golang-go
	fi
	case $(uname -m) in
	x86_64) arch=amd64 ;;
	aarch64) arch=arm64 ;;
	*) die "no Go $go_version known for $(uname -m): install it" ;;
	esac
	say "fetching Go $go_version into $cache/go: $(go version | cut -d' ' -f3) is too old"
	cd / # outside the module: an old Go cannot read its go.mod
	answer=$(GOTOOLCHAIN=local go mod download -json "golang.org/toolchain@v0.0.1-go$go_version.linux-$arch" 2>&1) || true
	cd "$root"
	dir=$(echo "$answer" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	[ -n "$dir" ] || die "Go $go_version was not fetched: $answer"
	new=$cache/.go.$$
	mkdir -p "$cache"
	trap 'exit 1' INT TERM HUP
	trap 'rm -rf "$new"' EXIT
	cp -r "$dir" "$new"
	# The module cache is read-only and knows no programs.
	chmod -R u+w "$new"
	chmod +x "$new"/bin/* "$new"/pkg/tool/*/*
	rm -rf "$cache/go"
	mv "$new" "$cache/go"
	trap - INT TERM HUP EXIT
	find_go >/dev/null || die "$cache/go does not run"
}

[ $# -gt 0 ] || die "usage: tools/deps.sh build|demo|test... | go"
for purpose; do
	case $purpose in
	build | demo | test) ;;
	go)
		find_go || die "no Go $go_version or newer found: run 'make deps'"
		exit
		;;
	*) die "purpose $purpose: want build, demo or test" ;;
	esac
done
packages "$*"
case " $* " in *' build '*) go_toolchain ;; esac
case " $* " in *' demo '* | *' test '*) kernel ;; esac
