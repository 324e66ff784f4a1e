/* Loaded with a hardened native program, before its own code runs: the program ends unless it
 * stands in the directory of a protected variant; nobody of the same user may read its memory,
 * and it leaves no core file. Who starts it has checked the manifest's signature. */
#define _GNU_SOURCE
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void end(const char *why) {
  if (write(2, why, strlen(why)) < 0) _exit(125);
  _exit(126);
}

__attribute__((constructor)) static void start(void) {
  char path[PATH_MAX + 16];
  struct rlimit none = {0, 0};
  ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
  if (length <= 0) end("not started: its place is unknown\n");
  path[length] = 0;
  strcpy(strrchr(path, '/') + 1, "manifest.json");
  if (access(path, R_OK) != 0) end("not started: no manifest.json beside the program\n");
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) end("not started: its memory stays readable\n");
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
