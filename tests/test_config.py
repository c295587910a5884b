"""What a config may say: every packaged config and variant is legal, and nothing else is."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from vdm_jax import config as configs
from vdm_jax.common_fields import METHODS, PAPERS
from vdm_jax.config import (
    base,
    brief,
    check,
    choose,
    differences,
    field_table,
    flatten,
    from_saved,
    load,
    overrides,
    packaged,
    with_variant,
)
from vdm_jax.config import layouts as config_layouts
from vdm_jax.config import registry as config_registry
from vdm_jax.errors import UserError
from vdm_jax.presets import papers

NAMES = (
    "cifar10",
    "cifar10_aug",
    "digits",
    "fashion_mnist",
    "imagenet32",
    "imagenet64",
    "swirl",
    "ddpm_cifar10",
    "ddpm_celebahq256",
    "iddpm_cifar10",
    "iddpm_imagenet64",
)


def variants(name: str) -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location(name, packaged()[f"configs/{name}.py"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    variants: dict[str, dict[str, Any]] = module.VARIANTS
    return variants


def test_every_config_of_the_papers_is_there() -> None:
    assert set(packaged()) >= {f"configs/{name}.py" for name in NAMES}


@pytest.mark.parametrize("path", sorted(packaged()))
def test_packaged_configs_and_all_their_variants_are_legal(path: str) -> None:
    check(load(path))
    names = variants(pathlib.Path(path).stem)
    for name, changes in names.items():
        config = load(f"{path}:{name}")
        check(config)
        given = dict(flatten(config))
        held = {field for other in names.values() for field in configs.active({**given, **other, **changes})}
        assert changes.keys() <= held
        assert {field: given[field] for field in changes if field in given}.items() <= changes.items()
        assert changes.keys() <= given.keys() or (path, name) == ("configs/ncsn_cifar10.py", "mini")
    if {"mini", "fixed"} <= set(names):
        both = load(f"{path}:mini,fixed")
        assert both.schedule.kind == "linear" and both.model.width == load(f"{path}:mini").model.width


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("adm_imagenet128", ("ablation", "per_head64")),
        ("adm_imagenet128", ("heads4", "mini", "ablation")),
        ("adm_imagenet64", ("ddim25", "classifier", "mini")),
        ("adm_imagenet256", ("ddim25", "uncond", "mini")),
        ("adm_imagenet256_upsampler", ("mini", "improved", "ddim25")),
        ("ddpm_cifar10", ("fast50", "mini")),
        ("ncsn_cifar10", ("v2", "mini")),
        ("iddpm_cifar10", ("linear_1k", "vlb", "mini")),
        ("score_sde_cifar10", ("ve", "ode", "mini")),
    ],
)
def test_variants_say_the_same_in_any_order(path: str, names: tuple[str, ...]) -> None:
    one, other = (load(f"configs/{path}.py:{','.join(order)}") for order in (names, names[::-1]))
    check(one)
    assert one == other
    if "ddim25" in names:
        assert one.model.width == 32
        assert configs.value(one, "sampling.respacing", "") == ("" if "classifier" in names else "ddim25")


def test_annealed_langevin_steps_visit_all_levels_in_small_runs_too() -> None:
    for names, levels in (("mini", 10), ("v2,mini", 232)):
        config = load(f"configs/ncsn_cifar10.py:{names}")
        assert config.training.num_timesteps == config.sampling.num_steps == levels
        assert config.training.num_steps <= 2000


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("score_sde_cifar10.py:ve,subvp", "schedule.kind"),
        ("iddpm_cifar10.py:vlb,simple,mini", "training.weighting"),
        ("ddgan_cifar10.py:T1,T4", "schedule.num_timesteps"),
    ],
)
def test_variants_that_exclude_each_other_are_a_sentence(file: str, field: str) -> None:
    with pytest.raises(UserError, match=rf"exclude each other: config\.{field} is .*; choose one"):
        load(f"configs/{file}")


def test_defaults_of_the_table_are_legal_and_described() -> None:
    check(base())
    for name, field in field_table().items():
        assert field.help, name
        items = field.default if isinstance(field.default, tuple) else (field.default,)
        assert not field.choices or set(items) <= set(field.choices), name


def test_base_is_locked_and_fresh() -> None:
    config = base()
    with pytest.raises(AttributeError):
        config.model.color = 4
    with pytest.raises(AttributeError):
        config.extra = 4
    with pytest.raises(TypeError):
        config.model.width = "wide"
    config.model.width = 128
    assert base().model.width == field_table()["model.width"].default != 128


ILLEGAL: list[tuple[str, Any, str]] = [
    (
        "method",
        "ddpmm",
        r"'ddpmm' is not one of 'vdm', 'ddpm', .*'classifier', 'ddgan', 'clip'; did you mean 'ddpm'\?$",
    ),
    ("data.shape", (8, 0, 1), r"config.data.shape=\(8, 0, 1\) must be at least 1"),
    ("data.shape", (8, "a", 1), r"config.data.shape=.* is not a tuple of int"),
    ("data.shape", (8, 8.0, 1), r"config.data.shape=.* is not a tuple of int"),
    ("data.shape", (8, 8), r"'unet', 'multiscale' and 'refinenet' take \(height, width, channels\)"),
    ("data.augment", ("flipp",), r"config.data.augment='flipp' is not one of .* did you mean 'flip'\?"),
    ("data.vocabulary", 1, "one value"),
    ("data.vocabulary", 257, "at most 256"),
    ("data.batch_size", 0, "at least 1"),
    ("data.batch_size", True, "not of type int"),
    ("model.fourier", (7, True), "model.fourier=.* is not a tuple of"),
    ("model.width", 2, "at least 4"),
    ("model.width", 63, r"width=63 must be even; try 64"),
    ("model.groups", 24, r"groups=24 must divide config.model.width=64; try config.model.groups=16"),
    (
        "model.groups",
        64,
        r"groups=64 must be less than config.model.width=64.*removes the time embedding; try config.model.groups=32",
    ),
    ("model.dropout", 1.0, "at most 0.99"),
    ("schedule.kind", "lineer", r"did you mean 'linear'\?"),
    ("schedule.gamma_0", 6.0, "gamma_0 must be below"),
    ("training.weighting", "simple", "not a bound"),
    ("training.seed", 2**32, "at most 4294967295"),
    ("optimizer.learning_rate", math.nan, r"learning_rate=nan must be a finite number: peak learning rate"),
    ("optimizer.learning_rate", math.inf, r"learning_rate=inf must be a finite number: peak learning rate"),
    (
        "evaluation.split",
        "val",
        r"; set 'test', or 'tune' for a tenth of the training data that config",
    ),
    ("data.split", "val", "the split that is evaluated is config.evaluation.split$"),
    ("data.split", "test", "the split that is evaluated is config.evaluation.split$"),
    ("data.split", "trian", r"did you mean 'train'\?"),
    ("optimizer.learning_rate", -1.0, "at least 0.0"),
    ("evaluation.tolerance", 0.0, "config.evaluation.tolerance=0.0 must be at least"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), ILLEGAL)
def test_illegal_values_are_named(name: str, value: Any, sentence: str) -> None:
    config = base()
    config.data.vocabulary = 17
    section, _, leaf = name.rpartition(".")
    with (config[section] if section else config).ignore_type():
        (config[section] if section else config)[leaf] = value
    with pytest.raises(UserError, match=sentence) as raised:
        check(config)
    assert "\n" not in str(raised.value)


# changes to a small Improved DDPM on 32 × 32 images, and the sentence
TOGETHER: list[tuple[dict[str, Any], str]] = [
    (
        {"schedule.kind": "cosine"},
        r"schedule.kind='cosine' does not go with config.method='ddpm'; it takes 'ddpm_linear'",
    ),
    (
        {"evaluation.estimator": "ode"},
        r"evaluation.estimator='ode' does not go with config.method='ddpm'; it takes 'vlb'",
    ),
    ({"sampling.sampler": "heun"}, r"sampler='heun' does not go with config.method='ddpm'"),
    ({"method": "vdm"}, r"does not go with config.method='vdm'"),
    ({"sampling.respacing": "ddim300", "sampling.num_steps": 300}, r"respacing='ddim300': no integer stride visits"),
    ({"sampling.respacing": "10,x"}, r"respacing='10,x' is not of the form '250'"),
    ({"sampling.respacing": "10,10,3,2,2"}, r"visits 27 levels; set config.sampling.num_steps=27"),
    (
        {"sampling.num_steps": 1},
        r"num_steps=1 starts from pure noise at level 1 of 1000, where the image has 100% .*respacing='even1'",
    ),
    ({"sampling.respacing": "1,1", "sampling.num_steps": 2, "schedule.kind": "ddpm_cosine"}, r"at level 501 of 1000"),
    ({"sampling.num_steps": 1001}, r"num_steps=1001 is more than the 1000 levels of the schedule; try 1000"),
    (
        {"schedule.kind": "ddpm_linear", "schedule.num_timesteps": 20},
        r"num_timesteps=20 must exceed config.schedule.beta",
    ),
    (
        {"schedule.kind": "ddpm_linear", "schedule.beta_min": 30.0},
        r"beta_min=30 must not exceed config.schedule.beta_max",
    ),
    (
        {"schedule.num_timesteps": 1, "sampling.num_steps": 1},
        r"num_timesteps=1 makes 1 level; a schedule has 2 to 1,048,576",
    ),
    (
        {"training.num_timesteps": 10},
        r"training.num_timesteps: config.method='ddpm' has no such field; it belongs to config.method='vdm'",
    ),
    ({"model.multipliers": ()}, r"multipliers=\(\) has no resolution"),
    (
        {"model.family": "ddpmpp", "model.width": 18, "model.groups": 6, "model.heads": 1},
        r"config.model.family='ddpmpp': groups=6 do not divide a norm's 18 channels",
    ),
    (
        {"schedule.kind": "constant_sigma", "schedule.step_variance": 1e-6, "schedule.remaining": 1e-6},
        r"step_variance=1e-06 makes 27,631,008 levels",
    ),
    (
        {"training.distill": "progressive", "training.student_steps": 4},
        r"for only 4 levels; set config.sampling.sampler='ddim', config.sampling.respacing='even4' and",
    ),
    ({"evaluation.levels": 1}, r"levels=1 must be 0, for all, or 2 to 1000"),
    ({"model.variance": "beta"}, r"weighting='hybrid' trains a learned variance"),
    ({"model.network": "unet"}, r"variance='learned' needs a network with a variance head, which 'unet' lacks"),
    (
        {"training.times": "importance", "training.weighting": "simple"},
        r"times='importance' draws levels by their terms",
    ),
    ({"data.shape": (28, 28, 1)}, r"data.shape=\(28, 28, 1\) cannot be halved 3 times, as the 4 resolutions of"),
    ({"data.shape": (32, 16, 3)}, r"data.shape=\(32, 16, 3\) is not square, .*config.data.resize='crop' or 'pad'"),
    ({"model.attention_at": (14,)}, r"attention_at has 14, but the network's resolutions are 32, 16, 8, 4"),
    ({"model.multipliers": (1.0, 0.3), "model.attention_at": (16,)}, r"multipliers has 0.3, which makes"),
    ({"model.heads": 3}, r"config.model.heads=3 must divide them"),
]


@pytest.mark.parametrize(("changes", "sentence"), TOGETHER)
def test_fields_that_contradict_each_other_are_named(changes: dict[str, Any], sentence: str) -> None:
    config = load("configs/iddpm_cifar10.py:mini")
    config.schedule.num_timesteps = 1000
    with pytest.raises(UserError, match=sentence) as raised:
        check(with_variant(config, "v", {"v": changes}))
    assert "\n" not in str(raised.value)


def test_path_is_moved_in_continuous_time_alone() -> None:
    config = base()
    choose(config, {"schedule.minimize_variance": True, "schedule.kind": "learned_monotone"})
    check(config)
    config.training.num_timesteps = 10
    with pytest.raises(UserError, match="num_timesteps=0"):
        check(config)


def test_missing_and_unknown_fields_are_named() -> None:
    config = base().unlock()
    config.model.color = 4
    with pytest.raises(UserError, match=r"unknown config field config.model.color; "):
        check(config)
    del config.model.color
    del config.model.width
    with pytest.raises(UserError, match=r"config.model.width is missing"):
        check(config)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("model.widht", "did you mean config.model.width?"),
        ("trainig.num_steps", "did you mean config.training.num_steps?"),
        ("batch_size", "did you mean config.data.batch_size?"),
        ("metod", "did you mean config.method?"),
    ],
)
def test_nearest_field(name: str, suggestion: str) -> None:
    assert configs.nearest_field(name) == suggestion
    assert configs.nearest_field("model.zzz").startswith("the nearest is config.model.")


def test_unknown_variants_and_files_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"configs/digits.py: unknown variant 'smok'; did you mean 'smoke'\?"):
        load("configs/digits.py:smok")
    with pytest.raises(UserError, match=r"unknown variant 'mni'; did you mean 'mini'\?"):
        load("configs/cifar10.py:fixed,mni")
    with pytest.raises(UserError, match=r"no config file at 'configs/cifar.py'; did you mean 'configs/cifar10.py'\?"):
        load("configs/cifar.py")
    for name in ("digits", "digit.py", "configs/digts.py", "runs/digits"):
        with pytest.raises(UserError, match=rf"no config file at '{name}'; did you mean 'configs/digits\.py'\?$"):
            load(name)
    for name in ("foo", "foo.py", "configs", "configs/foo.py", "train"):
        with pytest.raises(UserError, match=rf"no config file at '{name}'; give its path, or one of the package's: "):
            load(name)
    with pytest.raises(UserError, match=r"unknown variant 'a'; there are none"):
        with_variant(base(), "a", {})


BROKEN = {
    "def get_config(:\n": r"line 1: SyntaxError: ",
    "x = 1\n\ndef get_config():\n    return undefined_name\n": r"line 4: NameError: name 'undefined_name'",
    "import not_there_at_all\n": r"line 1: ModuleNotFoundError: ",
    "x = 1\n": r"defines no function get_config",
    "def get_config():\n    pass\n": r"get_config does not return a ConfigDict",
    "def get_config():\n    return {}\n": r"get_config does not return a ConfigDict",
    "from vdm_jax.config import base\ndef get_config():\n    c = base()\n    c.model.widht = 3\n    return c\n": (
        r"line 4: unknown config field 'widht'; did you mean 'width'\?"
    ),
    "from vdm_jax.config import base\ndef get_config():\n    c = base()\n    c.model.width = 'a'\n    return c\n": (
        r"line 4: TypeError: "
    ),
    "from vdm_jax.config import base\ndef get_config():\n    c = base().unlock()\n    c.model.xs = 3\n    return c\n": (
        r"unknown config field config.model.xs; "
    ),
    "import sys\ndef get_config():\n    sys.exit(3)\n": r"line 3: it ends the program \(exit status 3\); let ",
    "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n": r"config.method is missing",
}


@pytest.mark.parametrize("program", BROKEN)
def test_config_file_that_fails_says_where(program: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(program)
    with pytest.raises(UserError, match=BROKEN[program]) as raised:
        load(str(file))
    assert str(raised.value).startswith(f"{file}: ") and "\n" not in str(raised.value)


def test_config_without_variants_has_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text("from vdm_jax.config import base as get_config\n")
    assert load(str(tmp_path / "mine.py")).to_dict() == base().to_dict()
    with pytest.raises(UserError, match="no variants"):
        load(f"{tmp_path / 'mine.py'}:mini")


def test_own_file_comes_before_the_packaged_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("configs/digits.py").data.name == "digits"  # from any directory
    (tmp_path / "configs").mkdir()
    text = (
        "from vdm_jax.config import base\ndef get_config():\n    c = base()\n    c.data.name = 'mine'\n    return c\n"
    )
    (tmp_path / "configs" / "digits.py").write_text(text)
    assert load("configs/digits.py").data.name == "mine"


@pytest.mark.parametrize("name", ["configs/digits.py", "configs/swirl.py", "configs/cifar10_aug.py:release,T10"])
def test_round_trip_through_json(name: str) -> None:
    config = load(name)
    saved = json.loads(json.dumps(config.to_dict()))
    again = from_saved(saved)
    check(again)
    assert dict(flatten(again)) == dict(flatten(config))
    assert all(type(a) is type(b) for (_, a), (_, b) in zip(flatten(again), flatten(config), strict=True))
    assert differences(saved, config) == []


def test_differences_name_what_may_not_change() -> None:
    config = base()
    saved = json.loads(json.dumps(config.to_dict()))
    config.training.num_steps, config.sampling.num_steps, config.model.dtype = 7, 3, "bfloat16"
    assert differences(saved, config) == []
    config.data.shape, config.optimizer.clip = (), 0.5
    assert differences(saved, config) == ["data.shape: (8, 8, 1) → ()", "optimizer.clip: 1.0 → 0.5"]
    saved["model"]["color"] = 3
    assert "model.color: 3 → None" in differences(saved, config)


def test_field_that_a_saved_config_lacks_had_its_default() -> None:
    config = base()
    saved = config.to_dict()
    del saved["model"]["groups"], saved["schedule"]
    assert differences(saved, config) == []
    assert from_saved(saved).to_dict() == config.to_dict()
    config.model.groups = 16
    assert differences(saved, config) == ["model.groups: 32 → 16"]


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        ({"model": {"color": 3}}, "has the field model.color, which this version does not know"),
        ({"model": {"width": "wide"}}, "config.model.width='wide' is not of type int"),
        ({"data": {"shape": 8}}, "config.data.shape=8 is not a tuple of int"),
        ({"data": 3}, "has the field data, which"),
    ],
)
def test_saved_config_that_is_none_of_ours(saved: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_saved(saved)


def test_numbers_that_follow_the_vocabulary() -> None:
    assert configs.fourier_exponents(256) == (7, 8) and configs.fourier_exponents(17) == (3, 4)
    assert configs.gamma_0_for(256) == pytest.approx(-13.3)
    assert configs.gamma_0_for(17) == pytest.approx(-13.3 + 2 * math.log(256 / 17))


def test_what_chooses_parts_comes_first_in_any_order() -> None:
    """Of `choose`, variants and the command line; what a part that goes out had is gone, what both have stays."""
    changes = {
        "sampling.eta": 0.5,
        "training.student_steps": 2,
        "model.heads": 2,
        "sampling.sampler": "ddim",
        "training.distill": "progressive",
        "model.network": "multiscale",
        "schedule.kind": "ddpm_cosine",
        "method": "ddpm",
        "model.width": 128,
    }
    made = []
    for order in (list(changes), list(changes)[::-1]):
        ordered = {name: changes[name] for name in order}
        made += [choose(base(), ordered), with_variant(base(), "v", {"v": ordered})]
        made.append(base())
        overrides.apply(made[-1], [f"--config.{name}={value}" for name, value in ordered.items()])
    assert all(config == made[0] for config in made)
    held = dict(flatten(made[0]))
    assert held.items() >= changes.items() and held["model.rescale_time"] is False
    assert "model.fourier" not in held and "schedule.gamma_0" not in held
    again = choose(made[0], {"method": "vdm", "schedule.kind": "linear", "model.network": "unet"})
    assert again.model.width == 128 and again.sampling.eta == 0.5 and "heads" not in again.model
    check(again)


def test_fields_of_other_parts_are_refused_with_the_part_that_has_them() -> None:
    """On the command line, every field that a default VDM does not hold: one sentence, and nothing is set."""
    config = base()
    held = set(dict(flatten(config)))
    others = {name: field for name, field in field_table().items() if name not in held}
    never = {name for name in others if not any(name in configs.active(values) for values in vdms())}
    assert (len(others), len(never)) == (90, 67)  # of 146
    for name, field in others.items():
        value = field.default or {int: 3, float: 0.5, str: "x", bool: True, tuple: "('flip',)"}[type(field.default)]
        with pytest.raises(UserError) as raised:
            overrides.apply(config, [f"--config.{name}={value}"])
        said = str(raised.value)
        assert said.startswith(f"config.{name}: config.") and "\n" not in said
        assert "has no such field; it belongs to " in said
    assert config == base()


def vdms() -> list[dict[str, Any]]:
    """VDMs of all networks, schedules, samplers and estimators, with labels and guidance."""
    table = configs.active({})
    kinds = ("model.network", "schedule.kind", "sampling.sampler", "evaluation.estimator", "optimizer.name")
    chosen = [{name: value} for name in kinds for value in table[name].choices]
    labels = {"model.num_classes": 3, "model.null_class": True, "sampling.clip": True, "optimizer.decay": "cosine"}
    families = [{"model.network": "multiscale", "model.family": family} for family in ("improved", "adm")]
    return [{}, *chosen, *families, labels, {"model.residual": "pixel"}]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "model.discriminator_width",
            8,
            "config.model.discriminator_width: config.method='vdm' has no such field; "
            "it belongs to config.method='ddgan'",
        ),
        (
            "sampling.eta",
            0.5,
            "config.sampling.eta: config.sampling.sampler='ancestral' has no such field; "
            "it belongs to config.sampling.sampler='ddim'",
        ),
        (
            "training.student_steps",
            2,
            "config.training.student_steps: config.method='vdm' has no such field; "
            "it belongs to config.training.distill='progressive' of config.method='ddpm'",
        ),
        (
            "optimizer.muon_learning_rate",
            0.1,
            "config.optimizer.muon_learning_rate: config.optimizer.name='adamw' has no such field; "
            "it belongs to config.optimizer.name='muon'",
        ),
    ],
)
def test_refusals_name_the_nearest_part(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        choose(base(), {name: value})
    assert str(raised.value) == sentence


def test_a_variant_may_say_nothing_of_parts_that_no_variant_brings() -> None:
    with pytest.raises(UserError, match=r"config\.sampling\.eta: config\.sampling\.sampler='ancestral' has no such"):
        with_variant(base(), "a", {"a": {"sampling.eta": 0.5}})
    variants = {"a": {"sampling.eta": 0.5}, "b": {"sampling.sampler": "ddim"}}
    assert "eta" not in with_variant(base(), "a", variants).sampling
    assert with_variant(base(), "a,b", variants).sampling.eta == 0.5


def test_parts_of_all_methods_are_declared_alike() -> None:
    """A field has one type wherever it is declared, and its default is legal there."""
    for component in config_registry.COMPONENTS:
        for name, field in component.fields.items():
            assert type(field.default) is type(field_table()[name].default), name
            config_registry.check_value(name, field.default, field)
        known = [name for name in component.when if name in field_table()]
        assert known == list(component.when)
    for method in field_table()["method"].choices:
        required = {"model.network"} if method == "clip" else {"model.network", "schedule.kind"}
        assert required <= configs.active({"method": method}).keys()


def test_checking_configs_starts_no_backend() -> None:
    """main.py checks the config before it chooses the devices and joins a job, which a started backend forbids."""
    program = (
        "from vdm_jax import config\nfrom jax._src import xla_bridge\n"
        "for name in sorted(config.packaged()):\n"
        "    config.check(config.load(name))\n"
        "    assert not xla_bridge.backends_are_initialized(), name\n"
        "print(len(config.packaged()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 20


def earlier(config: Any, **changes: Any) -> dict[str, Any]:
    """As vdm_jax 0.1.0 wrote a config: all fields, as JSON gives them back."""
    saved: dict[str, Any] = {}
    for name, value in (config_layouts.DEFAULTS | dict(flatten(config)) | changes).items():
        if name not in config_layouts.DEFAULTS:
            continue  # newer
        section, _, leaf = name.rpartition(".")
        (saved.setdefault(section, {}) if section else saved)[leaf] = value
    return json.loads(json.dumps(saved))  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", ["digits.py", "ddgan_cifar10.py", "ncsn_cifar10.py", "adm_imagenet64.py:classifier"])
def test_configs_of_the_earlier_layout_are_read_and_go_on(path: str) -> None:
    """Fields that nothing reads are dropped at their default, or if they may change at any time."""
    config = load(f"configs/{path}")
    unread = {"sampling.snr": 0.3} if path == "digits.py" else {}
    saved = earlier(config, **unread)
    assert len(dict(flatten(saved))) == 140 > len(dict(flatten(config)))
    assert from_saved(saved) == config and differences(saved, config) == []
    config.optimizer.learning_rate = 0.5
    assert [d.partition(":")[0] for d in differences(saved, config)] == ["optimizer.learning_rate"]


def test_an_unread_field_of_the_earlier_layout_that_would_be_lost_is_a_sentence() -> None:
    saved = earlier(base(), **{"model.heads": 8})
    sentence = (
        r"is of vdm_jax 0\.1\.0, which wrote the field model\.heads=8 without using it: config\.model\.heads: "
        r"config\.model\.network='unet' has no such field; it belongs to config\.model\.network='multiscale'; remove it"
    )
    for read in (lambda: from_saved(saved), lambda: differences(saved, base())):
        with pytest.raises(UserError, match=sentence) as raised:
            read()
        assert "\n" not in str(raised.value)


def test_the_choice_of_a_part_is_the_difference_between_configs() -> None:
    saved = base().to_dict()
    other = choose(base(), {"model.network": "mlp", "sampling.sampler": "ddim"})
    assert differences(saved, other) == ["model.network: 'unet' → 'mlp'"]


def test_a_method_is_known_by_its_earlier_spelling() -> None:
    """In saved configs and on the command line."""
    new = choose(base(), {"method": "dequantizer", "schedule.kind": "vp_sde", "schedule.t_min": 1e-3})
    saved = new.to_dict() | {"method": "dequantiser"}
    assert from_saved(saved) == new and differences(saved, new) == []
    made = base()
    overrides.apply(made, ["--config.method=dequantiser", "--config.schedule.kind=vp_sde"])
    assert made.method == "dequantizer"
    made = base()
    overrides.apply(made, ["--config.schedule.minimise_variance=True", "--config.schedule.kind=learned_monotone"])
    assert made.schedule.minimize_variance


def test_a_saved_time_input_is_known_by_its_earlier_name() -> None:
    new = choose(base(), {"method": "sde", "schedule.kind": "vp_sde", "model.time_input": "index"})
    saved = new.to_dict()
    saved["model"]["told"] = saved["model"].pop("time_input")
    assert from_saved(saved) == new and differences(saved, new) == []


def test_renamed_fields_are_known_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """In saved configs, in variants and on the command line, of values and of bare switches."""
    monkeypatch.setitem(config_layouts.ALIASES, "model.channels", "model.width")
    monkeypatch.setitem(config_layouts.ALIASES, "model.attend", "model.attention")
    saved = base().to_dict()
    saved["model"]["channels"] = 32
    del saved["model"]["width"]
    config = base()
    config.model.width = 32
    assert from_saved(saved) == config and differences(saved, config) == []
    assert with_variant(base(), "v", {"v": {"model.channels": 32}}) == config
    made = base()
    arguments, rest = overrides.split(["--config.model.channels", "32", "--config.model.attend", "x"])
    assert rest == ["x"]
    overrides.apply(made, arguments)
    assert made.model.width == 32 and made.model.attention is True


def test_parts_may_be_chosen_by_assignment_in_a_file(tmp_path: pathlib.Path) -> None:
    """What came with the part that goes out may not be lost; what comes in has its defaults."""
    file = tmp_path / "mine.py"
    text = "from vdm_jax.config import base\ndef get_config():\n    c = base()\n"
    file.write_text(text + "    c.schedule.kind = 'linear'\n    c.optimizer.decay = 'cosine'\n    return c\n")
    config = load(str(file))
    check(config)
    assert config.optimizer.final_learning_rate == 0.0 and "schedule_learning_rate" not in config.optimizer
    file.write_text(
        text + "    c.optimizer.schedule_learning_rate = 0.1\n    c.schedule.kind = 'linear'\n    return c\n"
    )
    with pytest.raises(UserError, match=r"schedule_learning_rate: config\.schedule\.kind='linear' has no such field"):
        load(str(file))
    file.write_text(
        text + "    c.optimizer.decay = 'cosine'\n    c.optimizer.final_learning_rate = 0.1\n    return c\n"
    )
    with pytest.raises(
        UserError, match=r"line 5: config\.optimizer\.final_learning_rate belongs to a component that is not"
    ):
        load(str(file))


def test_fields_of_a_config_are_described_by_section() -> None:
    lines = overrides.describe(base()).splitlines()
    assert lines[0].startswith("  --config.method='vdm': the paper's family")
    assert [line for line in lines if line.endswith(":")] == [f"{name}:" for name in config_registry.SECTIONS]
    assert (
        "  --config.optimizer.decay='constant': learning rate schedule after the warm-up, until training.num_steps "
        "(one of 'constant', 'cosine', 'linear')" in lines
    )
    assert (
        "  --config.training.keep=3: number of newest checkpoints that are kept (at least 1; may change on resume)"
        in lines
    )
    fields = {line.split("=")[0].strip() for line in lines if line.startswith("  --")}
    assert fields == {f"--config.{name}" for name, _ in flatten(base())}


def test_long_lists_of_differences_are_cut_and_counted() -> None:
    changed = ["a: 1 → 2", f"b: {'x' * 200}", "c: 1 → 2"]
    assert brief(changed[:1]) == "a: 1 → 2"
    assert brief(changed) == f"a: 1 → 2; b: {'x' * 76}…; c: 1 → 2"
    assert brief([*changed, "d: 1 → 2"]).endswith("; c: 1 → 2; and 1 more field")
    assert brief([*changed, "d: 1 → 2", "e: 1 → 2"]).endswith("; c: 1 → 2; and 2 more fields")


@pytest.mark.parametrize(("method", "kind"), [("ddpm", "ddpm_linear"), ("sde", "vp_sde")])
def test_method_on_the_defaults_of_vdm_is_said(method: str, kind: str) -> None:
    """`base()` keeps VDM's U-Net and the bound; a config of the paper does not."""
    with pytest.raises(
        UserError, match=rf"it takes '{kind}'.*; --config={PAPERS[method]} has all settings of the paper$"
    ):
        check(choose(base(), {"method": method}))
    mixed = papers.departure(choose(base(), {"method": method, "schedule.kind": kind}))
    assert "the network is VDM's (config.model.network='unet')" in mixed and PAPERS[method] in mixed
    assert ("the loss is the bound (config.training.weighting='vlb')" in mixed) == (method == "ddpm")


def test_papers_are_packaged_configs_that_depart_from_nothing() -> None:
    for method, name in PAPERS.items():
        config = load(name)
        check(config)
        assert config.method == method and papers.departure(config) == ""
    assert PAPERS.keys() == set(METHODS)
