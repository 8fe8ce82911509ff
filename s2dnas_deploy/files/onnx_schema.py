"""The messages of an ONNX file, as far as a graph may have them: every field by number, none left out unseen.

After onnx.proto of ONNX 1.23, without what a graph for inference has no use for: training, the devices of a
distributed run, segments of tensors, opaque types; and without `external_data`, which is other files. A field
that is not listed is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scalar = Literal["int64", "int32", "float", "double", "text", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message: scalar values, or messages of one kind; one of it, or `many`.

    Of fields with the same `one_of`, a message has one.
    """

    scalar: Scalar | None = None
    message: str | None = None
    many: bool = False
    one_of: str = ""


def _one(scalar: Scalar) -> Field:
    return Field(scalar=scalar)


def _many(scalar: Scalar) -> Field:
    return Field(scalar=scalar, many=True)


def _message(name: str, one_of: str = "") -> Field:
    return Field(message=name, one_of=one_of)


def _messages(name: str) -> Field:
    return Field(message=name, many=True)


MESSAGES: Mapping[str, Mapping[int, Field]] = {
    "model": {
        1: _one("int64"),  # ir_version
        2: _one("text"),  # producer_name
        3: _one("text"),  # producer_version
        4: _one("text"),  # domain
        5: _one("int64"),  # model_version
        6: _one("text"),  # doc_string
        7: _message("graph"),
        8: _messages("operator set"),  # opset_import
        14: _messages("entry"),  # metadata_props
        25: _messages("function"),
    },
    "operator set": {1: _one("text"), 2: _one("int64")},  # domain, version
    "entry": {1: _one("text"), 2: _one("text")},  # key, value
    "graph": {
        1: _messages("node"),
        2: _one("text"),  # name
        5: _messages("tensor"),  # initializer
        10: _one("text"),  # doc_string
        11: _messages("value"),  # input
        12: _messages("value"),  # output
        13: _messages("value"),  # value_info
        14: _messages("annotation"),  # quantization_annotation
        15: _messages("sparse tensor"),  # sparse_initializer
        16: _messages("entry"),  # metadata_props
    },
    "annotation": {1: _one("text"), 2: _messages("entry")},
    "node": {
        1: _many("text"),  # input
        2: _many("text"),  # output
        3: _one("text"),  # name
        4: _one("text"),  # op_type
        5: _messages("attribute"),
        6: _one("text"),  # doc_string
        7: _one("text"),  # domain
        8: _one("text"),  # overload
        9: _messages("entry"),  # metadata_props
    },
    "attribute": {
        1: _one("text"),  # name
        2: _one("float"),  # f
        3: _one("int64"),  # i
        4: _one("bytes"),  # s
        5: _message("tensor"),  # t
        6: _message("graph"),  # g
        7: _many("float"),  # floats
        8: _many("int64"),  # ints
        9: _many("bytes"),  # strings
        10: _messages("tensor"),  # tensors
        11: _messages("graph"),  # graphs
        13: _one("text"),  # doc_string
        14: _message("type"),  # tp
        15: _messages("type"),  # type_protos
        20: _one("int32"),  # type
        21: _one("text"),  # ref_attr_name
        22: _message("sparse tensor"),  # sparse_tensor
        23: _messages("sparse tensor"),  # sparse_tensors
    },
    "tensor": {
        1: _many("int64"),  # dims
        2: _one("int32"),  # data_type
        4: _many("float"),  # float_data
        5: _many("int32"),  # int32_data
        6: _many("bytes"),  # string_data
        7: _many("int64"),  # int64_data
        8: _one("text"),  # name
        9: _one("bytes"),  # raw_data
        10: _many("double"),  # double_data
        11: _many("int64"),  # uint64_data
        12: _one("text"),  # doc_string
        14: _one("int32"),  # data_location
        16: _messages("entry"),  # metadata_props
    },
    "sparse tensor": {1: _message("tensor"), 2: _message("tensor"), 3: _many("int64")},
    "value": {1: _one("text"), 2: _message("type"), 3: _one("text"), 4: _messages("entry")},
    "type": {
        1: _message("tensor type", "kind"),
        4: _message("sequence type", "kind"),
        5: _message("map type", "kind"),
        6: _one("text"),  # denotation
        8: _message("tensor type", "kind"),  # sparse_tensor_type
        9: _message("sequence type", "kind"),  # optional_type
    },
    "tensor type": {1: _one("int32"), 2: _message("shape")},  # elem_type, shape
    "sequence type": {1: _message("type")},  # elem_type
    "map type": {1: _one("int32"), 2: _message("type")},  # key_type, value_type
    "shape": {1: _messages("dimension")},
    "dimension": {
        1: Field(scalar="int64", one_of="value"),  # dim_value
        2: Field(scalar="text", one_of="value"),  # dim_param
        3: _one("text"),  # denotation
    },
    "function": {
        1: _one("text"),  # name
        4: _many("text"),  # input
        5: _many("text"),  # output
        6: _many("text"),  # attribute
        7: _messages("node"),
        8: _one("text"),  # doc_string
        9: _messages("operator set"),  # opset_import
        10: _one("text"),  # domain
        11: _messages("attribute"),  # attribute_proto
        12: _messages("value"),  # value_info
        13: _one("text"),  # overload
        14: _messages("entry"),  # metadata_props
    },
}
