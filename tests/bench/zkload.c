/* Load on one ZooKeeper server, by one thread: CONNECTIONS sessions with PIPELINE requests under way each, of which WRITES percent are
 * setData and the rest getData, on NODES znodes of SIZE bytes. Prints "ops/s p50_us p99_us errors" of SECONDS after a warm-up of one.
 *
 *   zkload PORT CONNECTIONS PIPELINE WRITES NODES SIZE SECONDS
 *
 * Knows of the protocol what it needs: frames, ConnectRequest, create, getData, setData. Talks to 127.0.0.1 only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* WAVE: requests, or connections, that are under way while the load is prepared. The servers' own queue of connections is no
 * shorter (Java's has 50). */
enum { MOST_PIPELINE = 64, INPUT = 1 << 16, FRAME = 1 << 12, BUCKETS = 1 << 21, WAVE = 32 };

struct client {
  int fd;
  uint32_t xid;
  size_t have;
  uint64_t sent_us[MOST_PIPELINE]; /* a ring: replies come in order */
  unsigned first, under_way;
  unsigned char input[INPUT];
};

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static unsigned char *put32(unsigned char *p, uint32_t v) {
  v = htonl(v);
  memcpy(p, &v, 4);
  return p + 4;
}

static uint32_t get32(const unsigned char *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return ntohl(v);
}

static unsigned char *put_path(unsigned char *p, unsigned node) {
  char path[32];
  int n = snprintf(path, sizeof path, "/load-%06u", node);
  p = put32(p, (uint32_t)n);
  memcpy(p, path, (size_t)n);
  return p + n;
}

/* Header of a request; `finish` puts the length in front. */
static unsigned char *begin(unsigned char *frame, uint32_t xid, uint32_t opcode) {
  return put32(put32(frame + 4, xid), opcode);
}

static size_t finish(unsigned char *frame, unsigned char *end) {
  put32(frame, (uint32_t)(end - frame - 4));
  return (size_t)(end - frame);
}

static size_t get_data(unsigned char *frame, uint32_t xid, unsigned node) {
  unsigned char *p = put_path(begin(frame, xid, 4), node);
  *p++ = 0;
  return finish(frame, p);
}

static size_t set_data(unsigned char *frame, uint32_t xid, unsigned node, unsigned size) {
  unsigned char *p = put32(put_path(begin(frame, xid, 5), node), size);
  memset(p, 'x', size);
  return finish(frame, put32(p + size, (uint32_t)-1));
}

static size_t create(unsigned char *frame, uint32_t xid, unsigned node, unsigned size) {
  unsigned char *p = put32(put_path(begin(frame, xid, 1), node), size);
  memset(p, 'x', size);
  p = put32(put32(put32(p + size, 1), 31), 5);
  memcpy(p, "world", 5);
  p = put32(p + 5, 6);
  memcpy(p, "anyone", 6);
  return finish(frame, put32(p + 6, 0));
}

static void send_all(int fd, const unsigned char *p, size_t n) {
  while (n) {
    ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
    if (sent < 0) die("send");
    p += sent;
    n -= (size_t)sent;
  }
}

static ssize_t receive(int fd, void *p, size_t n) {
  ssize_t got = recv(fd, p, n, 0);
  if (got < 0) die("recv");
  if (!got) {
    fputs("the server closed a connection\n", stderr);
    exit(1);
  }
  return got;
}

static void receive_exactly(int fd, unsigned char *p, size_t n) {
  while (n) {
    ssize_t got = receive(fd, p, n);
    p += got;
    n -= (size_t)got;
  }
}

static uint32_t receive_frame(int fd, unsigned char *p) {
  receive_exactly(fd, p, 4);
  uint32_t n = get32(p);
  if (n > FRAME) die("a reply too long");
  receive_exactly(fd, p, n);
  return n;
}

/* Connects and asks for a session; `receive_session` takes the answer. */
static void open_client(struct client *c, uint16_t port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  unsigned char frame[64] = {0};
  int on = 1;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  /* protocol 0, zxid 0, timeout, session 0, a password of 16 zeros, not read-only */
  put32(frame, 45);
  put32(frame + 16, 30000);
  put32(frame + 28, 16);
  send_all(c->fd, frame, 49);
}

static void receive_session(struct client *c) {
  unsigned char reply[FRAME];
  if (receive_frame(c->fd, reply) < 36) die("no session");
}

static unsigned chance(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (unsigned)(state >> 32);
}

static uint32_t *latencies;

static uint64_t quantile(uint64_t count, double q) {
  uint64_t wanted = (uint64_t)((double)count * q), sum = 0;
  for (uint64_t us = 0; us < BUCKETS; us++)
    if ((sum += latencies[us]) > wanted) return us;
  return BUCKETS;
}

int main(int argc, char **argv) {
  if (argc != 8) {
    fprintf(stderr, "usage: %s PORT CONNECTIONS PIPELINE WRITES NODES SIZE SECONDS\n", argv[0]);
    return 2;
  }
  uint16_t port = (uint16_t)atoi(argv[1]);
  unsigned count = (unsigned)atoi(argv[2]), pipeline = (unsigned)atoi(argv[3]), writes = (unsigned)atoi(argv[4]);
  unsigned nodes = (unsigned)atoi(argv[5]), size = (unsigned)atoi(argv[6]);
  double seconds = atof(argv[7]);
  if (!count || !pipeline || pipeline > MOST_PIPELINE || !nodes || size > 1024) die("arguments");
  struct client *clients = calloc(count, sizeof *clients);
  latencies = calloc(BUCKETS, sizeof *latencies);
  int poll = epoll_create1(0);
  if (!clients || !latencies || poll < 0) die("start");
  static unsigned char out[FRAME * MOST_PIPELINE];
  /* The znodes first: on a slow disk they take longer than the sessions of connections that are silent meanwhile would last. */
  open_client(&clients[0], port);
  receive_session(&clients[0]);
  for (unsigned node = 0; node < nodes; node += WAVE) {
    unsigned end = node + WAVE < nodes ? node + WAVE : nodes;
    size_t length = 0;
    for (unsigned i = node; i < end; i++) length += create(out + length, i + 1, i, size);
    send_all(clients[0].fd, out, length);
    for (unsigned i = node; i < end; i++) receive_frame(clients[0].fd, out); /* that it exists already is no error here */
  }
  for (unsigned first = 1; first < count; first += WAVE) {
    unsigned end = first + WAVE < count ? first + WAVE : count;
    for (unsigned i = first; i < end; i++) open_client(&clients[i], port);
    for (unsigned i = first; i < end; i++) receive_session(&clients[i]);
  }
  for (unsigned i = 0; i < count; i++) {
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].fd, &e)) die("epoll_ctl");
  }
  clients[0].xid = nodes;
  uint64_t start = now_us() + 1000000u, end = start + (uint64_t)(seconds * 1e6), done = 0, errors = 0, now = now_us();
  struct epoll_event events[512];
  int waiting = 0;
  for (unsigned i = 0; i < count || now < end;) {
    struct client *c;
    if (i < count) {
      c = &clients[i++]; /* the first requests */
    } else {
      if (!waiting) {
        waiting = epoll_wait(poll, events, 512, 1000);
        if (waiting < 0) die("epoll_wait");
        now = now_us();
        if (!waiting) continue;
      }
      c = &clients[events[--waiting].data.u32];
      c->have += (size_t)receive(c->fd, c->input + c->have, INPUT - c->have);
      now = now_us();
      size_t at = 0;
      while (c->have - at >= 4) {
        uint32_t n = get32(c->input + at);
        if (c->have - at - 4 < n) break;
        if (now >= start && now < end) {
          uint64_t us = now - c->sent_us[c->first];
          done++;
          latencies[us < BUCKETS ? us : BUCKETS - 1]++;
          errors += get32(c->input + at + 16) != 0;
        }
        c->first = (c->first + 1) % MOST_PIPELINE;
        c->under_way--;
        at += 4 + n;
      }
      memmove(c->input, c->input + at, c->have - at);
      c->have -= at;
    }
    size_t length = 0;
    now = now_us();
    for (; c->under_way < pipeline; c->under_way++) {
      unsigned node = chance() % nodes;
      c->sent_us[(c->first + c->under_way) % MOST_PIPELINE] = now;
      c->xid++;
      if (chance() % 100 < writes)
        length += set_data(out + length, c->xid, node, size);
      else
        length += get_data(out + length, c->xid, node);
    }
    send_all(c->fd, out, length);
  }
  printf("%.0f %llu %llu %llu\n", (double)done / seconds, (unsigned long long)quantile(done, 0.5),
         (unsigned long long)quantile(done, 0.99), (unsigned long long)errors);
  return 0;
}
