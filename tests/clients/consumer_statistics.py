"""Prints average and maximum of the values of every five records of test-topic. Runs until it is interrupted."""

import json

from kafka import KafkaConsumer

consumer = KafkaConsumer(
    "test-topic",
    bootstrap_servers="localhost:9092",
    group_id="test-group",
    auto_offset_reset="earliest",
    value_deserializer=lambda value: json.loads(value.decode("utf-8")),
)
values = []
try:
    for message in consumer:
        values.append(message.value["value"])
        if len(values) == 5:
            print(f"average: {sum(values) / len(values):.1f}, maximum: {max(values)}", flush=True)
            values = []
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
