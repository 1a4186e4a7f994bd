/* The attacking program of the tests: `probe ATTACK [ARGUMENT...]`, static, put into images by tests/attacking.py.
 * Called by any other name than `probe` it is a program of the image that nobody on the host must run: it leaves a
 * mark at /mark and says so. */
#include "probe.h"

#include <libgen.h>
#include <sched.h>
#include <sys/stat.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} attacks[] = {
    {"arguments", attack_arguments},
    {"capabilities", attack_capabilities},
    {"cgroups", attack_cgroups},
    {"descriptors", attack_descriptors},
    {"devices", attack_devices},
    {"exhaust", attack_exhaust},
    {"files", attack_files},
    {"keyring", attack_keyring},
    {"mounts", attack_mounts},
    {"processes", attack_processes},
    {"race", attack_race},
    {"reopen", attack_reopen},
    {"sockets", attack_sockets},
    {"sweep", attack_sweep},
    {"terminal", attack_terminal},
    {"writable", attack_writable},
};

const char *error_name(int number)
{
    const char *name = strerrorname_np(number);
    return name ? name : "E?";
}

void tell(const char *name, long result)
{
    printf("%s %s\n", name, result < 0 ? error_name(errno) : "ok");
    fflush(stdout);
}

int put(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    ssize_t count = write(file, text, strlen(text));
    int error = errno;
    close(file);
    errno = error;
    return count < 0 ? -1 : 0;
}

int nest(int flags)
{
    char map[64];
    unsigned user = getuid(), group = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | flags) < 0)
        return -1;
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", user);
    if (put("/proc/self/uid_map", map) < 0)
        return -1;
    snprintf(map, sizeof map, "0 %u 1", group);
    return put("/proc/self/gid_map", map);
}

int main(int argc, char **argv)
{
    char *called = basename(argc ? argv[0] : "");
    if (strcmp(called, "probe") != 0) {
        int mark = open("/mark", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (mark >= 0)
            dprintf(mark, "%s ran as %u\n", called, getuid());
        printf("%s of the image ran\n", called);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof attacks / sizeof *attacks; i++)
        if (strcmp(argv[1], attacks[i].name) == 0) {
            int status = attacks[i].run(argc - 1, argv + 1);
            puts("the-end");
            fflush(stdout);
            if (getpid() == 1) /* stay, so that the container can be looked at */
                for (;;)
                    pause();
            return status;
        }
    fprintf(stderr, "probe: there is no such attack\n");
    return 2;
}
