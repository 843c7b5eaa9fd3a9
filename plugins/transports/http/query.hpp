// Questions to the service that it answers at once.
#pragma once

#include <optional>

#include "moe/sdk/transport.hpp"
#include "patchbay.pb.h"

namespace httpd {

// One connection of its own to the service, kept: health must be told also when no further one can be had.
class Query final : private moe::EventSink {
 public:
  moe::Status open(const moe_service& service) {
    MOE_ASSIGN(connection_, moe::ServiceConnection::open(&service, this));
    return {};
  }
  ~Query() override { connection_.close(); }

  // Health, info, metrics. Errors: what the service says, or MOE_UNAVAILABLE where it says nothing.
  moe::Result<patchbay::v1::ServerMessage> ask(const patchbay::v1::ClientMessage& question) {
    answer_.reset();
    MOE_TRY(connection_.submit(question.SerializeAsString()));
    if (!answer_) return moe::Error{MOE_UNAVAILABLE, "service: expected an answer, got none"};
    if (answer_->has_error()) return moe::Error{answer_->error().code(), answer_->error().message()};
    return std::move(*answer_);
  }

 private:
  // Within submit: the service answers these before it returns.
  moe_status deliver(std::string_view message) noexcept override {
    try {
      patchbay::v1::ServerMessage parsed;
      if (parsed.ParseFromArray(message.data(), static_cast<int>(message.size()))) answer_ = std::move(parsed);
    } catch (...) {  // no memory: there is no answer
    }
    return MOE_OK;
  }
  std::optional<patchbay::v1::ServerMessage> answer_;
  moe::ServiceConnection connection_;
};

}  // namespace httpd
