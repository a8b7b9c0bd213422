"""The OCI runtime specification 1.2 as frozen records: what a ``config.json`` says once `parsing.parse` has read it,
and what the rest of the engine trusts.

Classes and fields have the specification's names, in Python's spelling, with units where they have one. None means
"not said", which is not the same as zero.
"""

from __future__ import annotations

from vmcontainer_kernel.container.record import Record

__all__ = [
    "SHOWN_DEVICES",
    "BlockDevice",
    "BlockIO",
    "Capabilities",
    "Cpu",
    "Device",
    "DeviceRule",
    "Hook",
    "Hooks",
    "HugepageLimit",
    "IdMapping",
    "IoPriority",
    "Linux",
    "Memory",
    "Mount",
    "Namespace",
    "Personality",
    "Process",
    "Resources",
    "Rlimit",
    "Root",
    "Scheduler",
    "Seccomp",
    "SeccompArg",
    "SeccompRule",
    "Spec",
    "TimeOffset",
    "User",
]


SHOWN_DEVICES = ("org.vmcontainer.devices", "shown")
"""An annotation that other runtimes pass over: /dev is to be mounted nodev, and the node's own files shown in it.

``nodev`` among the options would say only the first half: runc and crun make the files, and then cannot open them.
"""


class User(Record):
    """Who runs in the container: ids inside its user namespace (config.md, "POSIX-platform User")."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(Record):
    """Five sets, each a bit mask by capability number (capabilities(7))."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


class Rlimit(Record):
    """One resource limit (getrlimit(2)); `type` such as RLIMIT_NOFILE; 2**64 - 1 is no limit."""

    type: str
    soft: int
    hard: int


class Scheduler(Record):
    """How the kernel schedules the process (sched_setattr(2)); `policy` such as SCHED_BATCH, `flags` such as
    SCHED_FLAG_RESET_ON_FORK; the last three in nanoseconds.
    """

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(Record):
    """The process's I/O class (IOPRIO_CLASS_RT, _BE, _IDLE) and priority 0 to 7 (ioprio_set(2))."""

    io_class: str
    priority: int = 0


class Process(Record):
    """What runs (config.md, "Process").

    `capabilities` None leaves them as they are; `console_size` is (height, width) in characters; `initial_cpus` and
    `final_cpus` are the CPU lists of execCPUAffinity, for `exec` only.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = User()
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    initial_cpus: str = ""
    final_cpus: str = ""


class Root(Record):
    """The root file system: a path in the bundle, or an absolute one (config.md, "Root")."""

    path: str = "rootfs"
    readonly: bool = False


class IdMapping(Record):
    """A range of ids of the container and of the node (user_namespaces(7))."""

    container_id: int
    host_id: int
    size: int


class Mount(Record):
    """One mount below the root, in order (config.md, "Mounts"); mappings make it an id-mapped mount."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(Record):
    """A program of the node to run at a point of the container's life (config.md, "POSIX-platform Hooks")."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout_s: int | None = None


class Hooks(Record):
    """All hooks by the point they run at."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(Record):
    """A namespace the container gets (config-linux.md, "Namespaces"): a new one, or the one behind `path`."""

    type: str
    path: str = ""


class TimeOffset(Record):
    """How far a clock of the time namespace is from the node's (time_namespaces(7)); `clock`: boottime, monotonic."""

    clock: str
    secs: int = 0
    nanosecs: int = 0


class Device(Record):
    """A device file (config-linux.md, "Devices"); `type` is c, b, u or p; a pipe has no numbers."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


class DeviceRule(Record):
    """Which devices may be used (config-linux.md, "Allowed Device list"); None is any number; `access` of "rwm"."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(Record):
    """Memory limits (config-linux.md, "Memory"); -1 is "no limit"."""

    limit_bytes: int | None = None
    reservation_bytes: int | None = None
    swap_bytes: int | None = None
    """Memory and swap together, as the specification counts on both versions of control groups."""
    kernel_bytes: int | None = None
    kernel_tcp_bytes: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool = False


class Cpu(Record):
    """CPU limits (config-linux.md, "CPU")."""

    shares: int | None = None
    quota_us: int | None = None
    burst_us: int | None = None
    period_us: int | None = None
    realtime_runtime_us: int | None = None
    realtime_period_us: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class BlockDevice(Record):
    """A number for one block device: a weight, or a rate in bytes or operations a second."""

    major: int
    minor: int
    value: int | None = None
    leaf_value: int | None = None


class BlockIO(Record):
    """Block I/O limits (config-linux.md, "Block IO")."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_devices: tuple[BlockDevice, ...] = ()
    read_bps: tuple[BlockDevice, ...] = ()
    write_bps: tuple[BlockDevice, ...] = ()
    read_iops: tuple[BlockDevice, ...] = ()
    write_iops: tuple[BlockDevice, ...] = ()


class HugepageLimit(Record):
    """A limit of huge pages; `page_size` as the kernel writes it, such as 2MB."""

    page_size: str
    limit_bytes: int


class Resources(Record):
    """Limits kept by control groups (config-linux.md, "Control groups"); None everywhere means no limit.

    `class_id` and `priorities` are network's (net_cls, net_prio), `rdma` is (device, handles, objects), `unified` is
    file name → text in the version 2 group.
    """

    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids_limit: int | None = None
    block_io: BlockIO = BlockIO()
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    class_id: int | None = None
    priorities: tuple[tuple[str, int], ...] = ()
    rdma: tuple[tuple[str, int | None, int | None], ...] = ()
    devices: tuple[DeviceRule, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()


class SeccompArg(Record):
    """A condition on an argument of a system call: `index` 0 to 5, `op` such as SCMP_CMP_EQ (seccomp_rule_add(3))."""

    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(Record):
    """What to do with some system calls if all conditions hold; `errno` None is EPERM where the action needs one."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Record):
    """A filter of system calls (config-linux.md, "Seccomp"); actions and architectures have the SCMP_ names."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    rules: tuple[SeccompRule, ...] = ()


class Personality(Record):
    """The execution domain (personality(2)): LINUX or LINUX32."""

    domain: str
    flags: tuple[str, ...] = ()


class Linux(Record):
    """The Linux part (config-linux.md)."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    time_offsets: tuple[TimeOffset, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    seccomp: Seccomp | None = None
    sysctl: tuple[tuple[str, str], ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    rootfs_propagation: str = ""
    personality: Personality | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types of all namespaces, new and joined."""
        return tuple(one.type for one in self.namespaces)

    @property
    def new_kinds(self) -> tuple[str, ...]:
        """The types of the namespaces to be made."""
        return tuple(one.type for one in self.namespaces if not one.path)


class Spec(Record):
    """A whole ``config.json``."""

    process: Process
    root: Root = Root()
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    linux: Linux = Linux()
    annotations: tuple[tuple[str, str], ...] = ()
