from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.models import HubModel


def test_the_formats_are_those_of_the_registry_entry() -> None:
    model = HubModel("tiny", "o/n", "llava", model_config="multimodal")
    assert ComparisonInputs(model, "hf", "converted").formats == ("llava", "multimodal")
