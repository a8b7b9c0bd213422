"""The default filter: what a container may ask of the kernel it shares with everybody else.

Every call is closed but the ones listed here: of some 360, a program that serves, computes, reads and writes needs
these. The decisions are those of Docker's default profile (github.com/moby/profiles, ``seccomp/default.json``, 2025),
so that an image which runs there runs here. What is closed answers EPERM, what is newer than the list ENOSYS
(`compiler`). The groups of `CLOSED` tell why the rest is closed, and with which capability a group opens: who holds it
could do as much anyway.
"""

from __future__ import annotations

import os
from functools import lru_cache

from vmcontainer_kernel.container.seccomp.syscalls import MACHINES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["CLOSED", "default_profile"]

_OPEN = {
    "files": """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek open openat
        openat2 creat close close_range dup dup2 dup3 pipe pipe2 fcntl fcntl64 ioctl flock stat stat64 fstat
        fstat64 lstat lstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64 statmount
        listmount access faccessat faccessat2 getcwd chdir fchdir getdents getdents64 mkdir mkdirat rmdir
        link linkat symlink symlinkat unlink unlinkat readlink readlinkat mknod mknodat rename renameat
        renameat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32
        truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 fadvise64_64 readahead copy_file_range
        utime utimes utimensat utimensat_time64 futimesat umask sync syncfs fsync fdatasync sync_file_range
        getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr
        flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat sendfile sendfile64
        splice tee vmsplice name_to_handle_at cachestat inotify_init inotify_init1 inotify_add_watch
        inotify_rm_watch fanotify_mark
    """,
    "waiting for many things": """
        poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1
        epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd
        signalfd4 io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
    """,
    "memory": """
        mmap mmap2 munmap mremap mprotect madvise brk msync mincore membarrier remap_file_pages mlock mlock2
        mlockall munlock munlockall memfd_create memfd_secret mseal map_shadow_stack pkey_alloc pkey_free
        pkey_mprotect
    """,
    "processes, threads and signals": """
        fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill pause pidfd_open
        pidfd_send_signal process_mrelease prctl seccomp set_tid_address set_robust_list get_robust_list
        set_thread_area get_thread_area rseq restart_syscall futex futex_time64 futex_wait futex_wake
        futex_waitv futex_requeue rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigreturn
        rt_sigqueueinfo rt_tgsigqueueinfo rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask
        sigreturn uretprobe riscv_hwprobe landlock_create_ruleset landlock_add_rule landlock_restrict_self
    """,
    "who runs, what it may use, in what order": """
        getpid getppid gettid getpgid getpgrp setpgid getsid setsid getcpu getuid getuid32 geteuid geteuid32
        getgid getgid32 getegid getegid32 getgroups getgroups32 getresuid getresuid32 getresgid getresgid32
        setuid setuid32 setgid setgid32 setgroups setgroups32 setreuid setreuid32 setregid setregid32
        setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset
        getrlimit ugetrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get ioprio_set
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
        sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
        sched_rr_get_interval sched_rr_get_interval_time64 uname sysinfo times getrandom
    """,
    "time (adjtimex sets the clock only with CAP_SYS_TIME)": """
        time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
        clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 alarm getitimer setitimer
        timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
        timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
    """,
    "sockets, queues, shared memory; see also _SOCKETS": """
        socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
        send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64 socketcall mq_open
        mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive
        mq_timedreceive_time64 msgget msgctl msgsnd msgrcv semget semctl semop semtimedop semtimedop_time64
        shmget shmctl shmat shmdt ipc
    """,
}
"""What it is for → the calls that every container may make."""

# Calls that look into or steer another process, by the kernel's own rules for who may (ptrace(2)). Before Linux 4.8 a
# traced process could change its call after the filter had judged it (seccomp(2), "Caveats").
_TRACING = "ptrace process_vm_readv process_vm_writev"

_OF_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
}

CLOSED: tuple[tuple[str, str, str], ...] = (
    ("opens files by number, past every mount of the container", "DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "makes or joins namespaces: in a user namespace of one's own everybody is root, and reaches code of the kernel"
        " that only root could (CVE-2022-0185, CVE-2023-32233)",
        "SYS_ADMIN",
        "clone clone3 unshare setns",
    ),
    (
        "changes what is mounted where",
        "SYS_ADMIN",
        "mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick",
    ),
    ("renames the container", "SYS_ADMIN", "sethostname setdomainname"),
    ("watches all files, or all quotas, of a file system", "SYS_ADMIN", "fanotify_init quotactl quotactl_fd"),
    ("reads or changes the security modules", "SYS_ADMIN", "lsm_get_self_attr lsm_set_self_attr lsm_list_modules"),
    ("loads programs into the kernel", "SYS_ADMIN BPF", "bpf"),
    ("measures the kernel and its other users", "SYS_ADMIN PERFMON", "perf_event_open"),
    ("reads the kernel's log, with addresses and names of the node", "SYS_ADMIN SYSLOG", "syslog"),
    ("tells what was profiled in the whole system", "SYS_ADMIN", "lookup_dcookie"),
    ("ends or restarts the node", "SYS_BOOT", "reboot"),
    ("changes the root folder of a process: the usual first step out", "SYS_CHROOT", "chroot"),
    ("loads code into the kernel", "SYS_MODULE", "init_module finit_module delete_module"),
    ("writes a record of every process that ends, on the whole node", "SYS_PACCT", "acct"),
    (
        "looks into other processes, or takes their descriptors",
        "SYS_PTRACE",
        f"kcmp pidfd_getfd process_madvise {_TRACING}",
    ),
    ("talks to devices past the kernel", "SYS_RAWIO", "iopl ioperm"),
    ("changes the clock, which has no namespace", "SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("hangs up a terminal", "SYS_TTY_CONFIG", "vhangup"),
    (
        "places memory on the node's memory banks",
        "SYS_NICE",
        "get_mempolicy set_mempolicy mbind set_mempolicy_home_node",
    ),
    ("replaces the running kernel", "", "kexec_load kexec_file_load"),
    ("reads and writes keys, which have no namespace", "", "add_key request_key keyctl"),
    ("stops the kernel inside a copy from user memory: it makes races easy to win", "", "userfaultfd"),
    (
        "does calls without making them: a filter does not see what a ring asks for; a stream of holes",
        "",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    ("swaps the node's memory", "", "swapon swapoff"),
    ("moves pages of processes between memory banks", "", "move_pages migrate_pages"),
    ("swaps the root mount", "", "pivot_root"),
    ("is served by the node's NFS daemon", "", "nfsservctl"),
    ("runs code of 16 bits, in a mode with a history of holes", "", "vm86 vm86old"),
    (
        "is old, and nobody calls it: the less can be reached, the less can be attacked",
        "",
        "_sysctl sysfs ustat uselib create_module get_kernel_syms query_module afs_syscall bdflush getpmsg putpmsg"
        " security tuxcall vserver",
    ),
    ("is so new that few have thought about it", "", "file_getattr file_setattr listns open_tree_attr uprobe"),
)
"""(what it does, capabilities of which one opens it, its calls): why each is closed. No capability: always closed."""

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""

_SOCKETS = (*range(12), *range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46))
"""Address families (linux/socket.h) that may be asked for. Left out: AF_VSOCK (40), which has no namespace and talks to
the hypervisor or to the machines of the node; AF_ALG (38), the kernel's ciphers; and what few use and few have read:
DECnet, Econet, ATM SVCs, IrDA, WANPIPE, ISDN, CAIF.
"""

_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26, both, and "tell me" (personality(2)): the others turn protections off, such as
ADDR_NO_RANDOMIZE.
"""


def default_profile(capabilities: Iterable[str], *, machine: str = "") -> dict[str, Any]:
    """Return ``linux.seccomp`` of an OCI configuration; not to be changed, as it is kept.

    `capabilities`: the bounding set, with or without ``CAP_``. `machine`: as uname(2) has it; empty for this one.
    """
    names = frozenset(name.removeprefix("CAP_") for name in capabilities)
    return _profile(names, machine or os.uname().machine, safe_tracing=_kernel() >= (4, 8))


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


@lru_cache(maxsize=16)
def _profile(capabilities: frozenset[str], machine: str, *, safe_tracing: bool) -> dict[str, Any]:
    names = [
        *" ".join(_OPEN.values()).split(),
        *_OF_MACHINE.get(machine, "").split(),
        *(_TRACING.split() if safe_tracing else ()),
    ]
    for _, openers, calls in CLOSED:
        if not capabilities.isdisjoint(openers.split()):
            names += calls.split()
    rules = [_allow(names)]
    if "SYS_ADMIN" not in capabilities:
        rules.append(_allow(["clone"], _condition("MASKED_EQ", _NEW_NAMESPACES, 0)))
        # Its flags are in memory, where a filter cannot look; C libraries take ENOSYS as "use clone".
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    # Conditions on one argument are alternatives (`compiler`).
    rules.append(_allow(["personality"], *(_condition("EQ", value) for value in _PERSONALITIES)))
    rules.append(_allow(["socket"], *_socket_conditions()))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": list(MACHINES.get(machine, ())),
        "syscalls": rules,
    }


def _socket_conditions() -> list[dict[str, Any]]:
    """Return one condition for all families below the first gap, then one for each."""
    gap = next(number for number in range(len(_SOCKETS)) if number not in _SOCKETS)
    return [_condition("LT", gap), *(_condition("EQ", number) for number in _SOCKETS if number > gap)]


def _allow(names: list[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _condition(operator: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": 0, "value": value, "valueTwo": value_two, "op": f"SCMP_CMP_{operator}"}
