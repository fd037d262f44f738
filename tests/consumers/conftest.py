"""Nothing here may ask a network for anything: models are made, and loaded from the disk."""

import os
import socket

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*_arguments):
        raise AssertionError("a test asks the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
