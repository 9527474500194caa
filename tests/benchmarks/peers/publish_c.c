/* publish_c URL QUEUE TASKS_FILE [corked]: librabbitmq with publisher confirms, 1,000 at most unconfirmed: what RabbitMQ's
 * pages recommend as streaming confirms. Build: cc -O2 -o publish_c publish_c.c -lrabbitmq
 * Follows https://www.rabbitmq.com/docs/confirms#publisher-confirms and
 * https://github.com/alanxz/rabbitmq-c/blob/master/examples/amqp_producer.c
 * Not guaranteed: a lost connection, a nack and a return end it, and what was confirmed by then is not told. */
#include "connect.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/types.h>

#define WINDOW 1000
#define REFILL_AT 500
#define UUID_TEXT 36

static uint64_t published, confirmed, first_unconfirmed = 1;
static bool *is_confirmed; /* by delivery tag: confirms need not come in order */
static size_t room;

static void remember_one_more(void) {
  if (++published >= room) {
    size_t more = room ? 2 * room : 1 << 16;
    is_confirmed = realloc(is_confirmed, more);
    if (!is_confirmed) fail("no memory");
    memset(is_confirmed + room, 0, more - room);
    room = more;
  }
}

static void confirm(uint64_t tag, bool multiple) {
  if (tag > published) fail("a confirm of what was not published");
  for (uint64_t each = multiple ? first_unconfirmed : tag; each <= tag; each++) {
    confirmed += !is_confirmed[each];
    is_confirmed[each] = true;
  }
  while (first_unconfirmed <= published && is_confirmed[first_unconfirmed]) first_unconfirmed++;
}

static void write_uuid4(char *text) {
  static unsigned char random[256 * 16]; /* one system call for 256 */
  static size_t used = sizeof random;
  if (used == sizeof random) {
    if (getrandom(random, sizeof random, 0) != sizeof random) fail("getrandom");
    used = 0;
  }
  unsigned char *bytes = random + used;
  used += 16;
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *text++ = '-';
    *text++ = "0123456789abcdef"[bytes[i] >> 4];
    *text++ = "0123456789abcdef"[bytes[i] & 15];
  }
}

/* librabbitmq makes a packet for each message, and has no setting against it. */
static void cork(amqp_connection_state_t connection, int on) {
  setsockopt(amqp_get_sockfd(connection), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
}

static void wait_for_confirm(amqp_connection_state_t connection) {
  amqp_frame_t frame;
  if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) fail("the connection is lost");
  if (frame.frame_type != AMQP_FRAME_METHOD) fail("a frame of an unexpected kind");
  if (frame.payload.method.id == AMQP_BASIC_ACK_METHOD) {
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    confirm(ack->delivery_tag, ack->multiple);
  } else {
    fail(amqp_method_name(frame.payload.method.id)); /* basic.nack, basic.return, or the end of the channel */
  }
  amqp_maybe_release_buffers(connection);
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 5) fail("usage: publish_c URL QUEUE TASKS_FILE [corked]");
  FILE *tasks = fopen(argv[3], "r");
  if (!tasks) fail("can't read the tasks");
  amqp_connection_state_t connection = connect_to(argv[1]);
  amqp_confirm_select(connection, CHANNEL);
  check(amqp_get_rpc_reply(connection), "confirm.select");

  amqp_bytes_t queue = amqp_cstring_bytes(argv[2]);
  char message_id[UUID_TEXT];
  amqp_basic_properties_t properties = {
      ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG,
      .delivery_mode = AMQP_DELIVERY_PERSISTENT,
      .message_id = {.len = UUID_TEXT, .bytes = message_id},
  };
  char *line = NULL;
  size_t line_room = 0;
  ssize_t length = 0;
  while (length >= 0 || confirmed < published) {
    if (length >= 0 && published - confirmed <= REFILL_AT) {
      if (argc == 5) cork(connection, 1);
      while (published - confirmed < WINDOW && (length = getline(&line, &line_room, tasks)) >= 0) {
        if (length && line[length - 1] == '\n') length--;
        write_uuid4(message_id);
        amqp_bytes_t body = {.len = (size_t)length, .bytes = line};
        if (amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &properties, body) != AMQP_STATUS_OK)
          fail("basic.publish");
        remember_one_more();
      }
      if (argc == 5) cork(connection, 0);
    }
    if (confirmed < published) wait_for_confirm(connection);
  }
  if (ferror(tasks)) fail("can't read the tasks");
  check(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "connection.close");
  return 0;
}
