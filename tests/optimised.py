"""The graph that onnxruntime makes of a file."""

import onnx


def optimised(model, tmp_path):
    """The graph that onnxruntime runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return onnx.load(tmp_path / "optimised.onnx")


def float_products(model):
    """The products of weights that are computed in float."""
    weights = {t.name for t in model.graph.initializer}
    weights |= {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
        for name in node.output
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Conv", "FusedConv")
        and weights & set(node.input[:2])
    ]
