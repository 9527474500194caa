/* work_c URL QUEUE: librabbitmq, prefetch 1, each task acknowledged by hand.
 * Build: cc -O2 -o work_c work_c.c -lrabbitmq
 * Follows https://github.com/alanxz/rabbitmq-c/blob/master/examples/amqp_consumer.c and
 * https://www.rabbitmq.com/docs/consumer-prefetch
 * Not guaranteed: a task longer than two heartbeats keeps its connection; a lost connection ends it. */
#include "connect.h"

int main(int argc, char **argv) {
  if (argc != 3) fail("usage: work_c URL QUEUE");
  amqp_connection_state_t connection = connect_to(argv[1]);
  amqp_basic_qos(connection, CHANNEL, 0, 1, 0);
  check(amqp_get_rpc_reply(connection), "basic.qos");
  amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(argv[2]), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  check(amqp_get_rpc_reply(connection), "basic.consume");
  for (;;) {
    amqp_envelope_t task;
    amqp_maybe_release_buffers(connection);
    check(amqp_consume_message(connection, &task, NULL, 0), "the connection, the channel or the queue is gone");
    if (amqp_basic_ack(connection, CHANNEL, task.delivery_tag, 0) != AMQP_STATUS_OK) fail("basic.ack");
    amqp_destroy_envelope(&task);
  }
}
