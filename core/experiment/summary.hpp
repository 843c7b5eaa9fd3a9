// What an experiment found, as one document: tables and the report are drawn from it.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "core/experiment/plan.hpp"

namespace patchbay {

// `results`: of each cell of the experiment in order, null where there is none. Follows from its arguments alone:
// {"name", "left_out": [name], "programs": ["version commit"],
//  "cells": [a result, and for one whose router is not the trained one "cost": {"reference", "accuracy", ...: from,
//  to}], "failed": [{"cell", "error"}], "missing": [id], "groups": [{"group", "models", "accuracy": {"mean", "min",
//  "max"}, ...}]}.
nlohmann::json summary_of(const Experiment& experiment, const std::vector<nlohmann::json>& results);

// A figure of a result by its path, such as "/accuracy/accuracy"; null where it was not measured.
nlohmann::json figure(const nlohmann::json& result, const char* path);

}  // namespace patchbay
