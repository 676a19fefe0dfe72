"""Prints every record of test-topic, as a member of test-group. Runs until it is interrupted."""

import json

from kafka import KafkaConsumer

consumer = KafkaConsumer(
    "test-topic",
    bootstrap_servers="localhost:9092",
    group_id="test-group",
    auto_offset_reset="earliest",
    value_deserializer=lambda value: json.loads(value.decode("utf-8")),
)
try:
    for message in consumer:
        print(f"received: {message.value} at offset {message.offset}", flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
