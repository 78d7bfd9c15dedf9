package engine

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of this file open, set and close sockets that never block. Go's scheduler is not told of
// them: it takes the processor away from whoever is in a call for 20 µs, as one that connects or closes
// on a busy machine often is, and wakes a thread to go on there. A proxy on one processor opens 1.2 times as
// many sessions a second so.

func failure(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func closeFD(fd int) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return failure(errno)
}

func shutdownFD(fd, how int) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return failure(errno)
}

func setOption(fd, level, option, value int) error {
	v := int32(value)
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return failure(errno)
}

func addToEpoll(epfd, fd int, ev *unix.EpollEvent) error {
	return controlEpoll(epfd, unix.EPOLL_CTL_ADD, fd, ev)
}

// changeInEpoll also tells again what is so already.
func changeInEpoll(epfd, fd int, ev *unix.EpollEvent) error {
	return controlEpoll(epfd, unix.EPOLL_CTL_MOD, fd, ev)
}

func controlEpoll(epfd, op, fd int, ev *unix.EpollEvent) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return failure(errno)
}

// socketFor makes a TCP socket for connecting to addr.
func socketFor(addr *socketAddr) (fd int, err error) {
	r, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(addr.raw.Family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(r), failure(errno)
}

func connectFD(fd int, addr *socketAddr) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr.raw)), uintptr(addr.size))
	return failure(errno)
}

// acceptFD accepts a connection; from says where it comes from.
func acceptFD(fd int, from *socketAddr) (conn int, err error) {
	from.size = uint32(unsafe.Sizeof(from.raw))
	r, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(r), failure(errno)
}

// localAddr tells which address fd has on this side.
func localAddr(fd int) (a socketAddr, err error) {
	a.size = uint32(unsafe.Sizeof(a.raw))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&a.size)))
	return a, failure(errno)
}

// A socketAddr is an address as the system has it: a sockaddr_in6, or a sockaddr_in in its place.
type socketAddr struct {
	raw  unix.RawSockaddrInet6
	size uint32
}

func (a *socketAddr) v4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
}

// networkOrder puts the bytes of a port into the order of the network, or back.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func socketAddrOf(to netip.AddrPort) socketAddr {
	var a socketAddr
	port := networkOrder(to.Port())
	if ip := to.Addr().Unmap(); ip.Is4() {
		*a.v4() = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ip.As4()}
		a.size = unix.SizeofSockaddrInet4
		return a
	}
	a.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: to.Addr().As16()}
	a.size = unix.SizeofSockaddrInet6
	if zone := to.Addr().Zone(); zone != "" {
		if i, err := net.InterfaceByName(zone); err == nil {
			a.raw.Scope_id = uint32(i.Index)
		} else if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			a.raw.Scope_id = uint32(n)
		}
	}
	return a
}

// addrPort is not valid for an address of another family.
func (a *socketAddr) addrPort() netip.AddrPort {
	switch a.raw.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4(a.v4().Addr), networkOrder(a.v4().Port))
	case unix.AF_INET6:
		ip := netip.AddrFrom16(a.raw.Addr).Unmap() // as net has it
		if a.raw.Scope_id != 0 && ip.Is6() {
			zone := strconv.FormatUint(uint64(a.raw.Scope_id), 10)
			if i, err := net.InterfaceByIndex(int(a.raw.Scope_id)); err == nil {
				zone = i.Name
			}
			ip = ip.WithZone(zone)
		}
		return netip.AddrPortFrom(ip, networkOrder(a.raw.Port))
	}
	return netip.AddrPort{}
}
