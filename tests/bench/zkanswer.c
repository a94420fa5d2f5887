/* A server that answers at once and knows nothing: what is behind a proxy whose speed is measured. One thread.
 *
 *   zkanswer PORT
 *
 * Of the protocol: frames; a ConnectRequest first; then a reply of the right shape to create, getData and setData, and an
 * empty one to anything else. Listens on 127.0.0.1 only.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT = 1 << 16, OUTPUT = 1 << 18, DATA = 100, STAT = 68, MOST = 16384 };

struct peer {
  int connected;
  size_t have;
  unsigned char input[INPUT];
};

static struct peer *peers[MOST];
static unsigned char output[OUTPUT];

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

static unsigned char *zeros(unsigned char *p, size_t n) {
  memset(p, 0, n);
  return p + n;
}

static unsigned char *answer(struct peer *peer, const unsigned char *frame, unsigned char *p) {
  unsigned char *start = p;
  p += 4;
  if (!peer->connected) { /* protocolVersion, timeOut, sessionId, passwd, readOnly */
    peer->connected = 1;
    p = put32(zeros(p, 4), 30000);
    p = put32(put32(p, 1), 1);
    p = zeros(put32(p, 16), 17);
  } else {
    uint32_t op = get32(frame + 4);
    p = zeros(put32(put32(put32(p, get32(frame)), 0), 1), 4);
    if (op == 1) {
      p = put32(p, 2);
      *p++ = '/';
      *p++ = 'x';
    } else if (op == 4) {
      p = zeros(put32(p, DATA), DATA + STAT);
    } else if (op == 5) {
      p = zeros(p, STAT);
    }
  }
  put32(start, (uint32_t)(p - start - 4));
  return p;
}

static int serve(int fd, struct peer *peer) {
  ssize_t n = recv(fd, peer->input + peer->have, INPUT - peer->have, 0);
  if (n <= 0)
    return n < 0 && (errno == EAGAIN || errno == EINTR);
  peer->have += (size_t)n;
  size_t at = 0;
  unsigned char *p = output;
  while (peer->have - at >= 4 && p < output + OUTPUT - 512) {
    uint32_t length = get32(peer->input + at);
    if (length > INPUT - 4)
      return 0;
    if (peer->have - at < 4 + length)
      break;
    p = answer(peer, peer->input + at + 4, p);
    at += 4 + length;
  }
  memmove(peer->input, peer->input + at, peer->have - at);
  peer->have -= at;
  for (unsigned char *q = output; q < p;) {
    ssize_t sent = send(fd, q, (size_t)(p - q), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
      return 0;
    if (sent > 0)
      q += sent;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 2)
    return fprintf(stderr, "usage: zkanswer PORT\n"), 2;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, loop = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024))
    die("listen");
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int n = epoll_wait(loop, events, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0 || fd >= MOST) {
          if (fd >= 0)
            close(fd);
          continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peers[fd] = calloc(1, sizeof *peers[fd]);
        event.data.fd = fd;
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
      } else if (!serve(fd, peers[fd])) {
        free(peers[fd]);
        peers[fd] = NULL;
        close(fd);
      }
    }
  }
}
