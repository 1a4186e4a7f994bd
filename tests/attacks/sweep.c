/* Every system call number of every ABI of the machine, with arguments that do nothing: what a filter answers.
 *
 * `sweep ABI FIRST LAST` prints `NUMBER ANSWER` pairs; ABI is native, x32 or i386.  The filter decides by number
 * before the kernel looks at arguments, so a refused call says EPERM or ENOSYS whatever it is given, and an allowed
 * one fails for its nonsense arguments: EFAULT, EBADF, EINVAL.  Each call runs in a process of its own, because some
 * end, stop or change it. */
#include "probe.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define X32 0x40000000L

static long native(long number)
{
#ifdef __x86_64__
    /* Pointers nowhere, descriptors closed, sizes zero. */
    register long r10 __asm__("r10") = -1, r8 __asm__("r8") = -1, r9 __asm__("r9") = -1;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(-1L), "S"(-1L), "d"(-1L), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
    long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
    return result < 0 ? -errno : result;
#endif
}

#ifdef __x86_64__
/* The 32-bit entry, from 64-bit code. */
static long legacy(long number)
{
    long result;
    __asm__ volatile("push %%rbp\n\tmov $-1, %%ebp\n\tint $0x80\n\tpop %%rbp"
                     : "=a"(result)
                     : "a"(number), "b"(-1), "c"(-1), "d"(-1), "S"(-1), "D"(-1)
                     : "r8", "r9", "r10", "r11", "memory");
    return (int)result;
}
#endif

int attack_sweep(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    const char *abi = argv[1];
    long first = atol(argv[2]), last = atol(argv[3]);
    long *answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (long number = first; number <= last; number++) {
        *answer = 1 << 20; /* did not return */
        pid_t child = fork();
        if (child == 0) {
            setpgid(0, 0);
            alarm(1);
#ifdef __x86_64__
            *answer = strcmp(abi, "i386") == 0 ? legacy(number)
                                               : native(strcmp(abi, "x32") == 0 ? number | X32 : number);
#else
            *answer = native(number);
#endif
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) && *answer == 1 << 20)
            printf("%ld SIG%s\n", number, sigabbrev_np(WTERMSIG(status)));
        else
            printf("%ld %s\n", number,
                *answer == 1 << 20                 ? "-"
                : *answer < 0 && *answer > -4096 ? error_name(-*answer)
                                                 : "ok");
    }
    return 0;
}

/* Calls that a filter lets pass with some arguments only. */
int attack_arguments(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const struct {
        const char *name;
        unsigned long flags;
    } clones[] = {{"newuser", CLONE_NEWUSER}, {"newns", CLONE_NEWNS}, {"newnet", CLONE_NEWNET}, {"newpid", CLONE_NEWPID},
        {"newipc", CLONE_NEWIPC}, {"newuts", CLONE_NEWUTS}, {"newcgroup", CLONE_NEWCGROUP}, {"plain", 0},
        {"high", 0x100000000UL | CLONE_NEWUSER}};
    static const struct {
        const char *name;
        unsigned long value;
    } personalities[] = {{"0", 0}, {"linux32", 8}, {"query", 0xffffffff}, {"read_implies_exec", 0x0400000},
        {"no_randomize", 0x0040000}, {"high", 0x100000000UL | 0x0400000}};
    char name[64];
    for (size_t i = 0; i < sizeof clones / sizeof *clones; i++) {
        snprintf(name, sizeof name, "clone-%s", clones[i].name);
        fflush(stdout);
        long child = syscall(SYS_clone, clones[i].flags | SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0)
            _exit(0);
        tell(name, child);
        if (child > 0)
            waitpid(child, NULL, 0);
    }
    for (size_t i = 0; i < sizeof personalities / sizeof *personalities; i++) {
        snprintf(name, sizeof name, "personality-%s", personalities[i].name);
        tell(name, syscall(SYS_personality, personalities[i].value));
    }
    syscall(SYS_personality, 0);
    static const struct {
        const char *name;
        int family;
    } families[] = {{"unix", 1}, {"inet", 2}, {"inet6", 10}, {"netlink", 16}, {"vsock", 40}, {"alg", 38}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        snprintf(name, sizeof name, "socket-%s", families[i].name);
        int fd = socket(families[i].family, families[i].family == 16 ? SOCK_RAW : SOCK_STREAM, 0);
        tell(name, fd);
        if (fd >= 0)
            close(fd);
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 ? errno : 0);
    int status = 0;
    waitpid(child, &status, 0);
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    tell("ptrace-traceme", errno ? -1 : 0);
    return 0;
}
