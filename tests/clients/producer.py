"""Sends ten JSON records to test-topic."""

import json
import random
import time

from kafka import KafkaProducer

producer = KafkaProducer(
    bootstrap_servers="localhost:9092",
    value_serializer=lambda value: json.dumps(value).encode("utf-8"),
)

for i in range(10):
    message = {"id": i, "value": random.randint(1, 100), "timestamp": time.time()}
    producer.send("test-topic", value=message)
    print(f"sent: {message}", flush=True)

producer.flush()
producer.close()
