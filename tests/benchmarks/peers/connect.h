/* A connection with one open channel, for both C peers; on any error the program ends with exit status 1. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANNEL 1
#define HEARTBEAT 60 /* seconds; what pika gets from RabbitMQ by default */

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(amqp_rpc_reply_t reply, const char *what) {
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static amqp_connection_state_t connect_to(const char *url) {
  struct amqp_connection_info at;
  amqp_default_connection_info(&at);
  if (amqp_parse_url(strdup(url), &at) != AMQP_STATUS_OK || at.ssl) fail("not an amqp:// URL");
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  if (!socket || amqp_socket_open(socket, at.host, at.port) != AMQP_STATUS_OK) fail("can't connect");
  check(amqp_login(connection, at.vhost, AMQP_DEFAULT_MAX_CHANNELS, AMQP_DEFAULT_FRAME_SIZE, HEARTBEAT,
                   AMQP_SASL_METHOD_PLAIN, at.user, at.password), "login");
  amqp_channel_open(connection, CHANNEL);
  check(amqp_get_rpc_reply(connection), "channel.open");
  return connection;
}
