"""Sends ten JSON records to test-topic and waits for each to be acknowledged."""

import json
import random
import sys
import time

from kafka import KafkaProducer
from kafka.errors import KafkaError

producer = KafkaProducer(
    bootstrap_servers="localhost:9092",
    value_serializer=lambda value: json.dumps(value).encode("utf-8"),
)
failed = 0
try:
    for i in range(10):
        message = {"id": i, "value": random.randint(1, 100), "timestamp": time.time()}
        future = producer.send("test-topic", value=message)
        try:
            metadata = future.get(timeout=10)
            print(f"sent to {metadata.topic}-{metadata.partition} at offset {metadata.offset}", flush=True)
        except KafkaError as error:
            failed += 1
            print(f"not sent: {error}", file=sys.stderr)
finally:
    producer.close()
sys.exit(1 if failed else 0)
