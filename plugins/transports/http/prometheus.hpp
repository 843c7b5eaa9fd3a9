// Metrics in Prometheus' text format.
#pragma once

#include <string>

#include "patchbay.pb.h"

namespace httpd {

// https://prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4. Metrics of one name follow each other.
std::string prometheus_text(const patchbay::v1::Metrics& metrics);

}  // namespace httpd
