/*
 * wire: links with a delay, for kernels without netem.
 *
 * A link is two TAP interfaces, each in a network namespace; a frame that leaves one enters
 * the other a fixed time later. One process carries all links of a run, in one thread.
 *
 * stdin:  "NETNS_A TAP_A NETNS_B TAP_B DELAY_US OCTETS\n" a link (OCTETS: of the queue in
 *         each direction), then "go\n". After that each "?\n" asks for a count.
 *         End of file ends the process, and with it the interfaces.
 * stdout: "ready\n" after "go"; to "?": frames shed since the start, because a queue was full.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define FRAME 2048      /* longest frame; the interfaces' MTU is below it */
#define BATCH 64        /* frames taken from one interface before the next has its turn */
#define NAME 256

struct head { uint64_t due; uint32_t size; };

/* One direction of a link: a ring of frames, each behind its head, none broken at the end. */
struct way {
    int from, to;
    uint64_t delay;
    unsigned char *ring;
    size_t room, first, next, used;   /* used: octets between first and next, gaps included */
    uint64_t shed;
};

static struct way *ways;
static int count;

static void fail(const char *what)
{
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void enter(const char *path)
{
    int netns = open(path, O_RDONLY | O_CLOEXEC);
    if (netns < 0 || setns(netns, CLONE_NEWNET) < 0)
        fail(path);
    close(netns);
}

static int tap(const char *netns, const char *name)
{
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    enter(netns);   /* first: the device belongs to where the file was opened */
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fail("/dev/net/tun");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        fail(name);
    return fd;
}

static void lay(struct way *way, int from, int to, uint64_t delay, size_t room)
{
    /* Not used before the first frame, the pages take no memory. */
    *way = (struct way){ .from = from, .to = to, .delay = delay, .room = room };
    if (!(way->ring = malloc(room)))
        fail("memory");
}

static size_t space(size_t size)    /* a frame and its head, aligned for the next head */
{
    return (sizeof(struct head) + size + 7) & ~(size_t)7;
}

static int push(struct way *way, const unsigned char *frame, uint32_t size, uint64_t due)
{
    size_t need = space(size), tail = way->room - way->next;
    int wrap = tail < need;
    size_t gap = wrap ? tail : 0;
    if (way->used + gap + need > way->room)
        return 0;
    if (wrap) {
        if (gap >= sizeof(struct head))     /* size 0: the ring goes on at its start */
            ((struct head *)(way->ring + way->next))->size = 0;
        way->next = 0;
    }
    *(struct head *)(way->ring + way->next) = (struct head){ due, size };
    memcpy(way->ring + way->next + sizeof(struct head), frame, size);
    way->next += need;
    way->used += gap + need;
    return 1;
}

static struct head *oldest(struct way *way)
{
    if (!way->used)
        return NULL;
    size_t tail = way->room - way->first;
    struct head *head = (struct head *)(way->ring + way->first);
    if (tail < sizeof *head || !head->size) {
        way->used -= tail;
        way->first = 0;
        head = (struct head *)way->ring;
    }
    return head;
}

static void take(struct way *way)
{
    unsigned char frame[FRAME];
    for (int i = 0; i < BATCH; i++) {
        ssize_t size = read(way->from, frame, sizeof frame);
        if (size <= 0)
            return;
        if (!push(way, frame, size, now() + way->delay))
            way->shed++;
    }
}

static uint64_t deliver(struct way *way, uint64_t time)    /* returns when the next is due */
{
    struct head *head;
    while ((head = oldest(way))) {
        if (head->due > time)
            return head->due;
        /* An interface that is down refuses; a cut wire loses what is on it. */
        if (write(way->to, head + 1, head->size) < 0 && errno == EAGAIN)
            way->shed++;
        way->first += space(head->size);
        way->used -= space(head->size);
    }
    way->first = way->next = 0;
    return UINT64_MAX;
}

static void read_links(int own)
{
    char line[4 * NAME], a[NAME], tap_a[NAME], b[NAME], tap_b[NAME];
    unsigned long delay_us, octets;
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "go\n")) {
            if (setns(own, CLONE_NEWNET) < 0)
                fail("own namespace");
            return;
        }
        if (sscanf(line, "%255s %255s %255s %255s %lu %lu", a, tap_a, b, tap_b, &delay_us,
                   &octets) != 6) {
            errno = EINVAL;
            fail("a link");
        }
        if (!(ways = realloc(ways, (count + 2) * sizeof *ways)))
            fail("memory");
        int left = tap(a, tap_a), right = tap(b, tap_b);
        lay(&ways[count], left, right, delay_us * 1000, octets);
        lay(&ways[count + 1], right, left, delay_us * 1000, octets);
        count += 2;
    }
    exit(0);
}

static void answer(void)
{
    char asked[64];
    ssize_t size = read(STDIN_FILENO, asked, sizeof asked);
    if (size <= 0)
        exit(0);
    for (ssize_t i = 0; i < size; i++) {
        uint64_t shed = 0;
        if (asked[i] != '?')
            continue;
        for (int n = 0; n < count; n++)
            shed += ways[n].shed;
        printf("%llu\n", (unsigned long long)shed);
    }
    fflush(stdout);
}

int main(void)
{
    setvbuf(stdin, NULL, _IONBF, 0);    /* what follows "go" must stay in the pipe */
    prctl(PR_SET_NAME, "phalanx-wire");
    read_links(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));

    int poll = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = -1 };
    if (poll < 0 || timer < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        fail("epoll");
    event.data.fd = -2;
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
    for (int i = 0; i < count; i++) {
        event.data.fd = i;
        if (epoll_ctl(poll, EPOLL_CTL_ADD, ways[i].from, &event) < 0)
            fail("epoll");
    }
    puts("ready");
    fflush(stdout);

    for (;;) {
        struct epoll_event ready[64];
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            int which = ready[i].data.fd;
            if (which == -1)
                answer();
            else if (which == -2)
                (void)!read(timer, &(uint64_t){ 0 }, 8);
            else if (ready[i].events & (EPOLLERR | EPOLLHUP))   /* its namespace is gone */
                epoll_ctl(poll, EPOLL_CTL_DEL, ways[which].from, NULL);
            else
                take(&ways[which]);
        }
        uint64_t time = now(), next = UINT64_MAX;
        for (int i = 0; i < count; i++) {
            uint64_t due = deliver(&ways[i], time);
            if (due < next)
                next = due;
        }
        struct itimerspec at = { 0 };
        if (next != UINT64_MAX) {
            at.it_value.tv_sec = next / 1000000000u;
            at.it_value.tv_nsec = next % 1000000000u;
        }
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}
