// What runs and what it does, as JSON for the page.
#pragma once

#include "json.hpp"
#include "patchbay.pb.h"

namespace httpd {

// The fields of the message by their own names, `running` and `waiting` for n_running and n_waiting; Telemetry's health
// is spread into it.
Json info_json(const patchbay::v1::Info& info);
Json telemetry_json(const patchbay::v1::Telemetry& telemetry);

// {"healthy": whether new requests are taken and served, "state", ...}. `closing`: the transport itself is draining.
Json health_json(const patchbay::v1::Health& health, bool closing);

}  // namespace httpd
