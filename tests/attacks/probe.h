/* What the attacking programs share.  Each attack prints lines of `NAME RESULT`, where RESULT is `ok` when the
 * attack got what it wanted, or the name of the error. */
#ifndef PROBE_H
#define PROBE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Tell the outcome of one attempt: RESULT below zero means errno says why. */
void tell(const char *name, long result);
/* The name of an error number. */
const char *error_name(int number);
/* Write TEXT into the file PATH; -1 with errno when that fails. */
int put(const char *path, const char *text);
/* Become root of a new user namespace with a mount namespace; -1 with errno when that fails. */
int nest(int flags);

int attack_arguments(int argc, char **argv);
int attack_capabilities(int argc, char **argv);
int attack_cgroups(int argc, char **argv);
int attack_descriptors(int argc, char **argv);
int attack_devices(int argc, char **argv);
int attack_exhaust(int argc, char **argv);
int attack_files(int argc, char **argv);
int attack_keyring(int argc, char **argv);
int attack_mounts(int argc, char **argv);
int attack_processes(int argc, char **argv);
int attack_race(int argc, char **argv);
int attack_reopen(int argc, char **argv);
int attack_sockets(int argc, char **argv);
int attack_sweep(int argc, char **argv);
int attack_terminal(int argc, char **argv);
int attack_writable(int argc, char **argv);

#endif
