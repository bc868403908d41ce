/* What the programs in C have in common: two threads, a pair of sockets, and clocks. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static size_t bytes, block;
static int ends[2];
static pthread_barrier_t start;

static void fail(const char *what)
{
    fprintf(stderr, "%s failed\n", what);
    exit(1);
}

static long long now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* The handshake on this thread's end; sends or receives all, and gives the time of the processor. */
static void server(void);
static void client(void);
static void send_all(const char *from);
static void receive_all(char *to);

static long long sent_cpu;

static void *sender(void *unused)
{
    char *from = malloc(block);
    memset(from, 7, block);
    client();
    pthread_barrier_wait(&start);
    long long began = now(CLOCK_THREAD_CPUTIME_ID);
    send_all(from);
    sent_cpu = now(CLOCK_THREAD_CPUTIME_ID) - began;
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc != 3)
        fail("usage: transfer BYTES BLOCK");
    bytes = strtoull(argv[1], NULL, 10);
    block = strtoull(argv[2], NULL, 10);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        fail("socketpair");
    pthread_barrier_init(&start, NULL, 2);
    if (pthread_create(&thread, NULL, sender, NULL) != 0)
        fail("pthread_create");
    char *to = malloc(block);
    server();
    pthread_barrier_wait(&start);
    long long began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
    receive_all(to);
    cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    long long wall = now(CLOCK_MONOTONIC) - began;
    pthread_join(thread, NULL);
    printf("%lld %lld\n", wall, cpu + sent_cpu);
    return 0;
}
