import numpy as np

from levit_deploy.verification.block_by_block import _inside

OUTPUT = np.array([[4000.0, -9000.0, 1.0], [3.0, -2.0, 1.0]], np.float32)  # a loud image, a quiet


def test_an_output_is_found_inside_though_a_loud_image_is_computed_otherwise():
    same = OUTPUT * np.array([[0.8], [1 + 1e-6]], np.float32)
    other = OUTPUT * np.array([[0.9], [0.9]], np.float32)
    assert _inside(OUTPUT, (3,), [other, same, OUTPUT[:, :2]], "logits") is same
    assert _inside(OUTPUT, (3,), [other], "logits") is OUTPUT  # none is near
    assert _inside(OUTPUT, (3,), [np.full_like(OUTPUT, np.nan)], "logits") is OUTPUT
    assert _inside(OUTPUT, (3,), [], "logits") is OUTPUT
