"""The fields of the messages in onnx.proto that klcal reads, their limits, and the types of tensors."""

from __future__ import annotations

from dataclasses import dataclass

from klcal.readers.pairs import BITS
from klcal.readers.protobuf import BYTES, INTEGER

# Each as number << 3 | kind.
IR_VERSION, GRAPH, OPSET, FUNCTION = 1 << 3 | INTEGER, 7 << 3 | BYTES, 8 << 3 | BYTES, 25 << 3 | BYTES  # of ModelProto
OPSET_DOMAIN, OPSET_VERSION = 1 << 3 | BYTES, 2 << 3 | INTEGER  # of OperatorSetIdProto
NODE, INITIALIZER, SPARSE_INITIALIZER = 1 << 3 | BYTES, 5 << 3 | BYTES, 15 << 3 | BYTES  # of GraphProto
GRAPH_INPUT, VALUE_NAME = 11 << 3 | BYTES, 1 << 3 | BYTES  # of GraphProto, of ValueInfoProto
INPUT, OUTPUT, NODE_NAME, OP_TYPE = (number << 3 | BYTES for number in range(1, 5))  # of NodeProto
ATTRIBUTE, DOMAIN = 5 << 3 | BYTES, 7 << 3 | BYTES
ATTRIBUTE_NAME, ATTRIBUTE_INTEGER, ATTRIBUTE_TYPE = (
    1 << 3 | BYTES,
    3 << 3 | INTEGER,
    20 << 3 | INTEGER,
)  # of AttributeProto
TENSOR, SUBGRAPH, SUBGRAPHS = 5 << 3 | BYTES, 6 << 3 | BYTES, 11 << 3 | BYTES  # of AttributeProto
SPARSE_TENSOR = 22 << 3 | BYTES  # of AttributeProto
SPARSE_VALUES, SPARSE_DIMS, PACKED_SPARSE_DIMS = (
    1 << 3 | BYTES,
    3 << 3 | INTEGER,
    3 << 3 | BYTES,
)  # of SparseTensorProto
DIMS, PACKED_DIMS, DATA_TYPE = 1 << 3 | INTEGER, 1 << 3 | BYTES, 2 << 3 | INTEGER  # of TensorProto
SEGMENT, FLOATS, INT32S, NAME = 3 << 3 | BYTES, 4 << 3 | BYTES, 5 << 3 | BYTES, 8 << 3 | BYTES
RAW, DOUBLES, EXTERNAL, LOCATION = 9 << 3 | BYTES, 10 << 3 | BYTES, 13 << 3 | BYTES, 14 << 3 | INTEGER
KEY, VALUE = 1 << 3 | BYTES, 2 << 3 | BYTES  # of StringStringEntryProto

MAX_GRAPHS = 30  # within each other: protobuf's parsers allow 100 messages
MAX_NAME_BYTES = 1 << 12
DAMAGED = "download or save it again"


@dataclass(frozen=True)
class Kind:
    """A type of tensors."""

    name: str
    storage: str = ""  # NumPy dtype of a value as it lies in raw data; empty where it cannot be calibrated
    listed: int = INT32S  # the field that has the values where they are not raw
    bits: int = 0  # of a value, where several are a byte


KINDS = {
    1: Kind("float32", "<f4", FLOATS),
    2: Kind("uint8"),
    3: Kind("int8"),
    4: Kind("uint16"),
    5: Kind("int16"),
    6: Kind("int32"),
    7: Kind("int64"),
    8: Kind("string"),
    9: Kind("bool"),
    10: Kind("float16", "<f2"),
    11: Kind("float64", "<f8", DOUBLES),
    12: Kind("uint32"),
    13: Kind("uint64"),
    14: Kind("complex64"),
    15: Kind("complex128"),
    16: Kind("bfloat16", "<u2"),
    17: Kind("float8_e4m3fn", "|u1"),
    18: Kind("float8_e4m3fnuz", "|u1"),
    19: Kind("float8_e5m2", "|u1"),
    20: Kind("float8_e5m2fnuz", "|u1"),
    21: Kind("uint4", bits=BITS),
    22: Kind("int4", bits=BITS),
    23: Kind("float4_e2m1fn", "|u1", bits=BITS),
    24: Kind("float8_e8m0fnu", "|u1"),
    25: Kind("uint2"),
    26: Kind("int2"),
    27: Kind("float6_e2m3fn"),
    28: Kind("float6_e3m2fn"),
}
