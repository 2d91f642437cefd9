"""Bad input to the log-prob family is refused on every backend alike, before a kernel is asked."""

from test_logprob_inputs import (
    test_checks_name_the_bad_value,
    test_options_out_of_range_are_refused,
    test_targets_that_do_not_fit_are_refused,
)

__all__ = [
    "test_checks_name_the_bad_value",
    "test_options_out_of_range_are_refused",
    "test_targets_that_do_not_fit_are_refused",
]
