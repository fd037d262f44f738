"""A small network for the guides, and what ONNX Runtime makes of it; needs onnx and onnxruntime.

python small_network.py             writes model.onnx; activations.npz, what its tensors are for 64 inputs; and one
more input in test_data_set_0, where ONNX Runtime's command line looks for it
python small_network.py MODEL…      prints what models answer to that input, with optimizations off
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RECORDED = ("x", "conv_out", "relu_out", "y")  # what Conv and MatMul take and give; of a fused Relu, too
INPUT = Path("test_data_set_0/input_0.pb")


def network() -> onnx.ModelProto:
    """Conv, Relu, Flatten, MatMul."""
    rng = np.random.default_rng(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "fc.weight": (144, 5)}
    sizes = {"conv.weight": 0.2, "conv.bias": 0.1, "fc.weight": 0.1}
    weights = {name: (sizes[name] * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["conv_out"]),
        helper.make_node("Relu", ["conv_out"], ["relu_out"]),
        helper.make_node("Flatten", ["relu_out"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc.weight"], ["y"]),
    ]
    ends = [("x", ["n", 3, 8, 8]), ("y", ["n", 5])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "network", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def answers(model: onnx.ModelProto | str, x: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of a model, computed as its graph says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def main(models: list[str]) -> None:
    """See above."""
    if models:
        x = numpy_helper.to_array(onnx.load_tensor(str(INPUT)))
        for path in models:
            print(f"{path:15}", *(f"{value:7.3f}" for value in answers(path, x)["y"][0]))
        return
    model, inputs = network(), np.random.default_rng(1).normal(size=(65, 3, 8, 8)).astype(np.float32)
    onnx.save(model, "model.onnx")
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, RECORDED[1:3]))
    found = {"x": inputs[1:], **answers(model, inputs[1:])}
    np.savez("activations.npz", **{name: found[name] for name in RECORDED})
    INPUT.parent.mkdir(exist_ok=True)
    INPUT.write_bytes(numpy_helper.from_array(inputs[:1], "x").SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1:])
