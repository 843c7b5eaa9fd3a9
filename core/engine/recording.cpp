#include "core/engine/recording.hpp"

namespace patchbay {

moe::Status StepRecorder::begin() { return device_->begin_recording(); }

moe::Status StepRecorder::end(Action action) {
  MOE_ASSIGN(Graph graph, device_->end_recording());
  MOE_TRY(graph.launch());
  pieces_.push_back({std::move(graph), std::move(action)});
  return pieces_.back().action ? pieces_.back().action() : moe::Status();
}

moe::Status StepRecorder::cut(Action action) {
  if (device_ == nullptr) return action();
  MOE_TRY(end(std::move(action)));
  return begin();
}

moe::Status Recordings::run(Device& device, const Shape& shape, const Step& step) {
  const auto [found, is_new] = pieces_.try_emplace(shape);
  if (is_new) {
    StepRecorder nothing;
    return step(nothing);
  }
  if (found->second.empty()) return record(device, found->second, step);
  for (const auto& piece : found->second) {
    MOE_TRY(piece.graph.launch());
    if (piece.action) MOE_TRY(piece.action());
  }
  return {};
}

moe::Status Recordings::record(Device& device, std::vector<StepRecorder::Piece>& out, const Step& step) {
  StepRecorder recorder(device);
  MOE_TRY(recorder.begin());
  if (const moe::Status status = step(recorder); !status.ok()) {
    (void)device.end_recording();  // of a step that failed; its own error is the one to tell
    return status;
  }
  MOE_TRY(recorder.end({}));
  out = std::move(recorder.pieces_);
  return {};
}

}  // namespace patchbay
