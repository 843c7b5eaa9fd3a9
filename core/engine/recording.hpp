// Steps recorded once and replayed: a recording is cut where something must run on the host, and goes on after it.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "core/engine/device.hpp"

namespace patchbay {

// What a step's code is given: cut() runs something that cannot be recorded, between two recordings if there is one.
class StepRecorder {
 public:
  using Action = std::function<moe::Status()>;
  // Runs nothing but the actions themselves.
  StepRecorder() = default;
  explicit StepRecorder(Device& device) : device_(&device) {}

  // `action` is kept: it must be right in later steps of the same shape too.
  moe::Status cut(Action action);

 private:
  friend class Recordings;
  // One piece of a step: a recording, then an action (none after the last).
  struct Piece {
    Graph graph;
    Action action;
  };
  moe::Status begin();
  // Ends the recording, keeps it and runs it.
  moe::Status end(Action action);

  Device* device_ = nullptr;
  std::vector<Piece> pieces_;
};

// The recordings of one device's steps, by shape.
class Recordings {
 public:
  struct Shape {
    int64_t n_tokens = 0;
    int64_t used_pages = 0;
    bool largest = false;  // ends with the largest logits
    auto operator<=>(const Shape&) const = default;
  };

  // Replays the step of that shape. The first time it just runs, so that whatever is loaded at first use is there; the
  // second time it is recorded, piece by piece as it runs. A step that fails while it is recorded leaves no recording.
  using Step = std::function<moe::Status(StepRecorder&)>;
  moe::Status run(Device& device, const Shape& shape, const Step& step);

 private:
  static moe::Status record(Device& device, std::vector<StepRecorder::Piece>& out, const Step& step);
  std::map<Shape, std::vector<StepRecorder::Piece>> pieces_;  // empty: has run once
};

}  // namespace patchbay
