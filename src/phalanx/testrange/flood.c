/* A bounded stream of TCP connection requests, or of other packets, at an even rate.
 *
 *     flood SOURCE|PREFIX/64|random TARGET PORT RATE SECONDS [KIND]
 *
 * Addresses are of IPv4 or IPv6. RATE is in packets a second. Each packet is a SYN without data
 * from a port and with a sequence number of its own. Of KIND rst it is a reset instead, of udp a
 * datagram of 1000 octets, of icmp an echo request; of tcp-fragments and udp-fragments one of the
 * four fragments of such a datagram, or of an acknowledgement with data. `random` draws a source
 * address for each (of fragments for each four), a prefix its last 64 bits. It ends by itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NS 1000000L /* as many packets as are due are sent once in a millisecond */
#define DATA 1000
#define PIECES 4
#define PIECE 256 /* octets of a fragment but the last */

union header {
    struct iphdr v4;
    struct ip6_hdr v6;
};

union segment {
    struct tcphdr tcp;
    struct udphdr udp;
    struct icmp6_hdr icmp; /* that of IPv4 is alike */
    uint16_t words[(sizeof(struct udphdr) + DATA) / 2];
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint32_t drawn(void) /* xorshift */
{
    static uint32_t state;
    while (state == 0)
        state = (uint32_t)getpid() * 2654435761u ^ (uint32_t)time(NULL);
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

static uint32_t foreign_address(void) /* none that stands for nothing, or for somebody here */
{
    for (;;) {
        uint32_t address = drawn();
        uint32_t first = address >> 24;
        if (first != 0 && first != 10 && first != 127 && first < 224)
            return htonl(address);
    }
}

static uint32_t sum(const void *octets, size_t size) /* of an even number of octets */
{
    uint32_t total = 0;
    for (size_t i = 0; i < size; i += 2) {
        uint16_t word;
        memcpy(&word, (const char *)octets + i, sizeof word);
        total += word;
    }
    return total;
}

static uint16_t folded(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

int main(int count, char **words)
{
    union header header = {0};
    union segment segment = {0};
    struct sockaddr_in there4 = {.sin_family = AF_INET};
    struct sockaddr_in6 there6 = {.sin6_family = AF_INET6};
    int six = count > 2 && strchr(words[2], ':') != NULL;
    const char *what = count == 7 ? words[6] : "syn";
    int udp = strncmp(what, "udp", 3) == 0, icmp = strcmp(what, "icmp") == 0;
    int rst = strcmp(what, "rst") == 0, pieces = strstr(what, "-fragments") != NULL;
    int known = strcmp(what, "syn") == 0 || strcmp(what, "udp") == 0 || rst || icmp ||
                strcmp(what, "tcp-fragments") == 0 || strcmp(what, "udp-fragments") == 0;
    int random_source = count > 5 && strcmp(words[1], "random") == 0;
    char *slash = count > 5 ? strchr(words[1], '/') : NULL;
    int within = six && slash != NULL && strcmp(slash, "/64") == 0;
    if (within)
        *slash = '\0';
    void *source = six ? (void *)&header.v6.ip6_src : (void *)&header.v4.saddr;
    void *target = six ? (void *)&header.v6.ip6_dst : (void *)&header.v4.daddr;
    int kind = six ? AF_INET6 : AF_INET;

    if (count < 6 || count > 7 || !known || inet_pton(kind, words[2], target) != 1 ||
        (!random_source && inet_pton(kind, words[1], source) != 1)) {
        fputs("usage: flood SOURCE|PREFIX/64|random TARGET PORT RATE SECONDS [KIND]\n", stderr);
        return 2;
    }
    double rate = atof(words[4]), seconds = atof(words[5]);
    int handle = socket(kind, SOCK_RAW, IPPROTO_RAW);
    if (handle < 0) {
        perror("flood: no raw socket");
        return 1;
    }
    uint16_t port = htons((uint16_t)atoi(words[3])), *check;
    uint8_t protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
    if (icmp)
        protocol = six ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
    size_t size = udp || pieces ? sizeof segment : sizeof segment.tcp;
    struct ip6_frag later = {.ip6f_nxt = protocol};
    if (icmp)
        size = sizeof segment.icmp;
    if (six) {
        header.v6.ip6_flow = htonl(6u << 28);
        header.v6.ip6_plen = htons((uint16_t)size);
        header.v6.ip6_nxt = pieces ? IPPROTO_FRAGMENT : protocol;
        header.v6.ip6_hlim = 64;
        there6.sin6_addr = header.v6.ip6_dst;
    } else {
        header.v4.version = 4;
        header.v4.ihl = 5;
        header.v4.ttl = 64;
        header.v4.protocol = protocol;
        there4.sin_addr.s_addr = header.v4.daddr; /* the kernel fills in length, id and checksum */
    }
    if (udp) {
        segment.udp.dest = port;
        segment.udp.len = htons((uint16_t)size);
        check = &segment.udp.check;
    } else if (icmp) {
        segment.icmp.icmp6_type = six ? ICMP6_ECHO_REQUEST : 8;
        check = &segment.icmp.icmp6_cksum;
    } else {
        segment.tcp.dest = port;
        segment.tcp.doff = 5;
        segment.tcp.syn = !rst && !pieces;
        segment.tcp.rst = rst;
        segment.tcp.ack = pieces;
        segment.tcp.window = htons(64240);
        check = &segment.tcp.check;
    }
    struct iovec parts[] = {{&header, six ? sizeof header.v6 : sizeof header.v4},
                            {&later, six && pieces ? sizeof later : 0},
                            {&segment, size}};
    struct msghdr message = {
        .msg_name = six ? (void *)&there6 : (void *)&there4,
        .msg_namelen = six ? sizeof there6 : sizeof there4,
        .msg_iov = parts,
        .msg_iovlen = 3,
    };

    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    double began = now();
    long sent = 0;
    for (double passed = 0; passed < seconds; passed = now() - began) {
        for (long due = 1 + (long)(passed * rate); sent < due; sent++) {
            uint32_t *address = source;
            size_t at = pieces ? (size_t)(sent % PIECES) * PIECE : 0;
            if (at > 0)
                goto compose;
            if (random_source && six) { /* global unicast: 2000::/3 */
                address[0] = htonl(0x20000000u | (drawn() >> 3));
                address[1] = drawn();
            } else if (random_source) {
                *address = foreign_address();
            }
            if (six && (random_source || within)) {
                address[2] = drawn();
                address[3] = drawn();
            }
            if (icmp)
                segment.icmp.icmp6_seq = (uint16_t)drawn();
            else
                segment.words[0] = htons((uint16_t)(1024 + drawn() % 64512));
            if (!udp && !icmp)
                segment.tcp.seq = drawn();
            *check = 0;
            /* Over the segment and its pseudo header: addresses, which stand side by side. */
            uint32_t before = sum(source, six ? 32 : 8) + htons(protocol) + htons((uint16_t)size);
            *check = folded((icmp && !six ? 0 : before) + sum(&segment, size));
        compose:
            if (pieces) {
                size_t left = size - at, part = left < PIECE ? left : PIECE;
                uint16_t more = left > PIECE;
                if (at == 0)
                    later.ip6f_ident = drawn() | 1;
                later.ip6f_offlg = htons((uint16_t)(at | more));
                if (six) {
                    header.v6.ip6_plen = htons((uint16_t)(sizeof later + part));
                } else {
                    header.v4.id = (uint16_t)(later.ip6f_ident | 1);
                    header.v4.frag_off = htons((uint16_t)(at / 8 | (more ? 0x2000 : 0)));
                }
                parts[2] = (struct iovec){(char *)&segment + at, part};
            }
            if (sendmsg(handle, &message, 0) < 0 && errno != ENOBUFS) { /* a full queue drops it */
                perror("flood: cannot send");
                return 1;
            }
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}
