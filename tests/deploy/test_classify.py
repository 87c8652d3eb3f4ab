"""A folder of images, classified."""

import pytest
import torch
from PIL import Image

from dsnn_utils import ShiftSpec, convert_to_shift, load_network, save_network
from dsnn_utils.deploy import classify
from dsnn_utils.shift import build_model
from dsnn_utils.training import load_dataset


def test_a_folder_is_classified_as_the_network_does(tmp_path):
    data = load_dataset("digits", train_size=50)
    torch.manual_seed(0)
    network = convert_to_shift(build_model("resnet20", 10, 1), 20, ShiftSpec("Q", 4, 4, 4)).eval()
    saved = load_network(save_network(network, tmp_path / "n.safetensors", data, "resnet20"))
    images = data.validation.images[:3]
    for i, image in enumerate(images):
        (tmp_path / "images" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(tmp_path / "images" / f"{i % 2}" / f"{i}.png")
    table = classify(saved, tmp_path / "images")
    assert list(table["file"]) == ["0/0.png", "0/2.png", "1/1.png"]
    x = (images[[0, 2, 1]].float() / 255 - data.mean[0]) / data.std[0]
    with torch.no_grad():
        probability, number = network(x).softmax(1).max(1)
    assert list(table["class"]) == [data.classes[i] for i in number]
    torch.testing.assert_close(torch.tensor(table["probability"]), probability)
    with pytest.raises(ValueError, match="must be a folder with images"):
        classify(saved, tmp_path / "absent")
    Image.new("RGB", (9, 8)).save(tmp_path / "images" / "colour.png")
    with pytest.raises(ValueError, match="must hold images of 1 channel, not of 3"):
        classify(saved, tmp_path / "images")
