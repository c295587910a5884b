from vdm_jax.config import base, fourier_exponents, gamma_0_for, with_variant


def get_config(variant: str = ""):
    config = base()
    config.model.fourier = fourier_exponents(17)
    config.schedule.gamma_0 = gamma_0_for(17)
    return with_variant(config, variant, {})
