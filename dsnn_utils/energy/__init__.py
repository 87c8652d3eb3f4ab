"""Energy, measured or modelled, and what it means in emissions and water. The two never mix."""

from dsnn_utils.energy.emissions import (
    J_PER_KWH,
    BreakEven,
    break_even,
    embodied_emissions_gco2eq,
    footprint,
    grid_intensity_gco2eq_per_kwh,
    grid_table,
    search_energy_kwh,
    training_modelled_kwh,
)
from dsnn_utils.energy.measured import MIN_DURATION_S, EnergyMeter, Measurement
from dsnn_utils.energy.modelled import (
    BETWEEN_LAYERS,
    ModelledEnergy,
    energy_by_format,
    energy_by_layer,
    modelled_energy,
    operation_counts,
    price_with_integers,
)
from dsnn_utils.energy.prices import PRICES, accumulator_bits, mac_pj, operation_pj
from dsnn_utils.energy.readings import (
    InferenceEnergy,
    chance_to_rank,
    mean_and_half_width,
    measure_inference,
    repetitions_to_rank,
    summarise_readings,
    take_readings,
)

__all__ = [
    "BETWEEN_LAYERS",
    "J_PER_KWH",
    "MIN_DURATION_S",
    "BreakEven",
    "EnergyMeter",
    "InferenceEnergy",
    "Measurement",
    "ModelledEnergy",
    "PRICES",
    "accumulator_bits",
    "break_even",
    "chance_to_rank",
    "embodied_emissions_gco2eq",
    "energy_by_format",
    "energy_by_layer",
    "footprint",
    "grid_intensity_gco2eq_per_kwh",
    "grid_table",
    "mac_pj",
    "mean_and_half_width",
    "measure_inference",
    "modelled_energy",
    "operation_counts",
    "operation_pj",
    "price_with_integers",
    "repetitions_to_rank",
    "search_energy_kwh",
    "summarise_readings",
    "take_readings",
    "training_modelled_kwh",
]
