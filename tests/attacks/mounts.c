/* Mounts, control groups, devices: what would give the host's file systems away. */
#include "probe.h"

#include <linux/mount.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define BIND 4096
#define REMOUNT 32
#define DETACH 2
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);

/* With `nested` as first word: as root of one more user namespace, which has all capabilities. */
static int begin(int argc, char **argv, int flags)
{
    if (argc < 2 || strcmp(argv[1], "nested") != 0)
        return 0;
    int result = nest(flags);
    tell("nest", result);
    return result;
}

int attack_mounts(int argc, char **argv)
{
    static const char *const types[] = {"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup2", "ext4",
        "debugfs", "tracefs", "securityfs", "bpf", "configfs", "binfmt_misc", "overlay", "fuse", "ramfs", "squashfs"};
    static const char *const covered[] = {
        "/proc/kcore", "/proc/keys", "/proc/sys", "/proc/sysrq-trigger", "/sys", "/sys/firmware", "/sys/fs/cgroup"};
    char name[128];
    mkdir("/tmp/place", 0755);
    if (begin(argc, argv, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWCGROUP) < 0)
        return 0;
    pid_t child = fork(); /* in the new pid namespace, if there is one: procfs needs a process there */
    if (child) {
        waitpid(child, NULL, 0);
        return 0;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        snprintf(name, sizeof name, "mount-%s", types[i]);
        const char *data = strcmp(types[i], "overlay") ? NULL : "lowerdir=/:/tmp";
        int result = mount("none", "/tmp/place", types[i], 0, data);
        tell(name, result);
        if (result == 0)
            umount2("/tmp/place", DETACH);
        snprintf(name, sizeof name, "fsopen-%s", types[i]);
        int context = syscall(SYS_fsopen, types[i], 1);
        if (context >= 0)
            context = syscall(SYS_fsconfig, context, 6, NULL, NULL, 0);
        tell(name, context);
    }
    for (size_t i = 0; i < sizeof covered / sizeof *covered; i++) {
        snprintf(name, sizeof name, "uncover-%s", covered[i]);
        tell(name, umount2(covered[i], DETACH));
        snprintf(name, sizeof name, "remount-%s", covered[i]);
        tell(name, mount(NULL, covered[i], NULL, BIND | REMOUNT, NULL));
        snprintf(name, sizeof name, "setattr-%s", covered[i]);
        struct mount_attr attributes = {.attr_clr = MOUNT_ATTR_RDONLY};
        tell(name, syscall(SYS_mount_setattr, AT_FDCWD, covered[i], 0, &attributes, sizeof attributes));
        /* A copy of the mount above without what covers it. */
        snprintf(name, sizeof name, "clone-%s", covered[i]);
        tell(name, syscall(SYS_open_tree, AT_FDCWD, covered[i], 1));
    }
    tell("bind-proc", mount("/proc", "/tmp/place", NULL, BIND, NULL));
    tell("nodev-off", mount(NULL, "/", NULL, BIND | REMOUNT, NULL));
    tell("pivot", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    tell("shared", mount(NULL, "/", NULL, 1 << 20, NULL));
    puts("the-end");
    fflush(stdout);
    _exit(0);
}

/* Print whether PATH below a mounted control group hierarchy can be changed. */
static void change_groups(const char *kind, const char *top)
{
    static const char *const files[] = {"release_agent", "notify_on_release", "cgroup.procs", "tasks", "devices.allow",
        "memory.limit_in_bytes", "cgroup.subtree_control", "pids.max", "memory.max", "cgroup.freeze", "cgroup.kill"};
    char name[256], path[512];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", top, files[i]);
        if (access(path, F_OK) < 0)
            continue;
        snprintf(name, sizeof name, "%s-%s", kind, files[i]);
        /* Opening is enough: release_agent is checked at open and write, so it gets what it already holds. */
        int file = open(path, O_WRONLY | O_CLOEXEC);
        tell(name, file);
        if (file >= 0 && strcmp(files[i], "release_agent") == 0) {
            snprintf(name, sizeof name, "%s-set-release_agent", kind);
            tell(name, write(file, "\n", 1));
        }
        close(file);
    }
    snprintf(path, sizeof path, "%s/attack", top);
    snprintf(name, sizeof name, "%s-mkdir", kind);
    tell(name, mkdir(path, 0755));
}

/* The steps of the published release_agent exploit (CVE-2022-0492), in both cgroup versions. */
int attack_cgroups(int argc, char **argv)
{
    static const char *const controllers[] = {"rdma", "memory", "devices", "pids", "freezer", "cpu,cpuacct", "net_cls",
        "misc", "hugetlb", "none,name=attack", "none,name=systemd"};
    mkdir("/tmp/place", 0755);
    if (begin(argc, argv, CLONE_NEWCGROUP) < 0)
        return 0;
    change_groups("given", "/sys/fs/cgroup");
    for (size_t i = 0; i < sizeof controllers / sizeof *controllers; i++) {
        char name[64];
        snprintf(name, sizeof name, "mount-%s", controllers[i]);
        int result = mount("cgroup", "/tmp/place", "cgroup", 0, controllers[i]);
        tell(name, result);
        if (result == 0) {
            change_groups(controllers[i], "/tmp/place");
            umount2("/tmp/place", DETACH);
        }
    }
    int result = mount("cgroup2", "/tmp/place", "cgroup2", 0, NULL);
    tell("mount-cgroup2", result);
    if (result == 0)
        change_groups("cgroup2", "/tmp/place");
    return 0;
}

/* Nodes of devices that matter, made in each of argv[1...] and opened; then those that are there. */
int attack_devices(int argc, char **argv)
{
    static const struct {
        const char *name;
        mode_t kind;
        int major, minor;
    } nodes[] = {{"mem", S_IFCHR, 1, 1}, {"port", S_IFCHR, 1, 4}, {"kmsg", S_IFCHR, 1, 11}, {"null", S_IFCHR, 1, 3},
        {"tty1", S_IFCHR, 4, 1}, {"console", S_IFCHR, 5, 1}, {"loop-control", S_IFCHR, 10, 237},
        {"fuse", S_IFCHR, 10, 229}, {"kvm", S_IFCHR, 10, 232}, {"tun", S_IFCHR, 10, 200}, {"loop0", S_IFBLK, 7, 0},
        {"sda", S_IFBLK, 8, 0}, {"vda", S_IFBLK, 254, 0}, {"vdb", S_IFBLK, 252, 0}};
    for (int place = 1; place < argc; place++)
        for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
            char path[256], name[300];
            snprintf(path, sizeof path, "%s/attack-%s", argv[place], nodes[i].name);
            snprintf(name, sizeof name, "mknod-%s", path);
            tell(name, mknod(path, nodes[i].kind | 0666, makedev(nodes[i].major, nodes[i].minor)));
            /* The test may have put the node there as the host's root. */
            if (access(path, F_OK) == 0) {
                snprintf(name, sizeof name, "open-%s", path);
                int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
                tell(name, file);
                if (file >= 0)
                    close(file);
                unlink(path);
            }
        }
    static const char *const there[] = {"mem", "kmem", "port", "kmsg", "console", "tty0", "tty1", "ttyS0", "vcs",
        "loop-control", "loop0", "fuse", "kvm", "vda", "sda", "net/tun", "vhost-net", "mapper/control", "btrfs-control",
        "hpet", "rtc0", "uinput", "input/event0", "dri/card0", "snapshot", "userfaultfd", "vfio/vfio", "cuse"};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) {
        char path[64], name[80];
        snprintf(path, sizeof path, "/dev/%s", there[i]);
        snprintf(name, sizeof name, "there-%s", there[i]);
        int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        tell(name, file);
        if (file >= 0)
            close(file);
    }
    return 0;
}
