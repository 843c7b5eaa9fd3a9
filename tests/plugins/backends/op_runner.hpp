// Runs cases on a backend plugin and compares the answers with the SDK's loops.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "all_cases.hpp"
#include "moe/sdk/loops.hpp"
#include "support/plugin_library.hpp"
#include "support/test_host.hpp"

namespace patchbay::test {

// An opened backend. The host and the library outlive it.
class BackendUnderTest {
 public:
  static moe::Result<std::unique_ptr<BackendUnderTest>> open(const moe_backend& backend, const moe_host* host) {
    std::unique_ptr<BackendUnderTest> out(new BackendUnderTest(backend));
    std::vector<moe_option_value> values = default_options(backend.component);
    moe::MessageBuffer message;
    const moe_status status = backend.create(host, values.data(), static_cast<uint32_t>(values.size()), &out->instance_,
                                             &out->description_, message.get());
    if (status != MOE_OK) return message.error(status);
    if (backend.component.get_extension != nullptr) {
      out->rows_ = static_cast<const moe_backend_rows*>(backend.component.get_extension(MOE_BACKEND_ROWS_ID));
    }
    return out;
  }
  ~BackendUnderTest() {
    if (instance_ != nullptr) backend_.destroy(instance_);
  }
  BackendUnderTest(const BackendUnderTest&) = delete;
  BackendUnderTest& operator=(const BackendUnderTest&) = delete;

  [[nodiscard]] const moe_backend& backend() const { return backend_; }
  [[nodiscard]] moe_backend_instance* instance() const { return instance_; }
  [[nodiscard]] const moe_backend_description& description() const { return description_; }
  [[nodiscard]] const moe_backend_rows* rows() const { return rows_; }

 private:
  explicit BackendUnderTest(const moe_backend& backend)
      : backend_(backend), description_(moe::make<moe_backend_description>()) {}

  // As the host gives them; only what an option of a backend can be by default.
  static std::vector<moe_option_value> default_options(const moe_component& c) {
    std::vector<moe_option_value> values;
    for (uint32_t i = 0; i < c.n_options; ++i) {
      moe_option_value v{};
      v.key = c.options[i].key;
      v.type = c.options[i].type;
      const std::string text = c.options[i].default_text == nullptr ? "" : c.options[i].default_text;
      if (v.type == MOE_OPTION_INT) v.value.i = std::atoll(text.c_str());
      if (v.type == MOE_OPTION_FLOAT) v.value.f = std::atof(text.c_str());
      if (v.type == MOE_OPTION_BOOL) v.value.i = text == "true" ? 1 : 0;
      if (v.type == MOE_OPTION_STRING) v.value.s = c.options[i].default_text;
      values.push_back(v);
    }
    return values;
  }

  const moe_backend& backend_;
  moe_backend_instance* instance_ = nullptr;
  moe_backend_description description_;
  const moe_backend_rows* rows_ = nullptr;
};

// What came of a case.
struct Outcome {
  enum Kind { kSame, kRefused, kWrong } kind = kSame;
  std::string text;       // why it is refused, or what is wrong
  std::deque<Array> got;  // the arrays after the call
};

class CaseRun {
 public:
  CaseRun(const BackendUnderTest& under_test, const OpCase& op_case, const char* wanted)
      : t_(under_test), b_(under_test.backend()), c_(op_case), wanted_(wanted) {}
  ~CaseRun() {
    for (auto& w : prepared_) w.release(&w);
    for (auto& buffer : buffers_) buffer.release(&buffer);
  }
  CaseRun(const CaseRun&) = delete;
  CaseRun& operator=(const CaseRun&) = delete;

  // `n_rows`: only the first rows of the call; negative: all of them.
  Outcome run(int64_t n_rows = -1) {
    n_rows_ = n_rows < 0 ? c_.n_rows : n_rows;
    if (auto status = prepare_weights(); !status.ok()) return failed(status.error());
    if (auto status = launch(); !status.ok()) return failed(status.error());
    return {Outcome::kSame, "", std::move(got_)};
  }

  // The whole case, and what differs from the loops. `spoil` changes the answer before it is compared: to test the
  // comparison.
  Outcome compare(const std::function<void(std::deque<Array>&)>& spoil = {}) {
    Outcome outcome = run();
    if (outcome.kind != Outcome::kSame) return outcome;
    if (spoil) spoil(outcome.got);
    std::deque<Array> before = c_.arrays;
    std::deque<Array> want = c_.arrays;
    auto inputs = bind(before);
    auto args = bind(want);
    const moe::loops::LoopContext context{nullptr, loop_rows()};
    const moe::loops::LoopOp* loop = moe::loops::find(c_.op);
    auto& header = reinterpret_cast<moe_op_args&>(*args.data());
    std::vector<uint64_t> workspace(loop->workspace(header, context) / 8 + 8);
    header.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 7) / 8 * 8);
    header.workspace_bytes = workspace.size() * 8;
    if (auto status = loop->run(header, context); !status.ok())
      return {Outcome::kWrong, "loops: " + status.error().message, {}};
    const auto& input_args = reinterpret_cast<const moe_op_args&>(*inputs.data());
    if (c_.compare) {
      outcome.text = c_.compare(input_args, want, outcome.got);
    } else {
      Tolerances tolerances;
      for (size_t a = 0; a < c_.arrays.size(); ++a) tolerances[a].assign(static_cast<size_t>(c_.arrays[a].n), 0.0);
      c_.tolerance(input_args, weight_row(), tolerances);
      outcome.text = difference(want, outcome.got, tolerances);
    }
    if (!outcome.text.empty()) outcome.kind = Outcome::kWrong;
    return outcome;
  }

 private:
  using Args = std::vector<uint64_t>;

  static Outcome failed(const moe::Error& error) {
    return {error.code == MOE_UNIMPLEMENTED ? Outcome::kRefused : Outcome::kWrong, error.message, {}};
  }
  moe::Status call(moe_status status) {
    if (status != MOE_OK) return message_.error(status);
    return {};
  }

  // --- weights
  // -----------------------------------------------------------------------------------------------------------------
  moe::Status prepare_weights() {
    if (!prepared_.empty()) return {};
    for (const HostWeight& w : c_.weights) {
      auto source = moe::make<moe_weight_source>();
      source.name = "case";
      source.role = "weight";
      source.encoding = "f32";
      source.wanted = wanted_;
      source.n_groups = w.n_groups;
      source.n_out = w.n_out;
      source.n_in = w.n_in;
      source.uses = c_.op == MOE_OP_EMBED ? MOE_USE_EMBED : MOE_USE_MATMUL;
      source.context = const_cast<HostWeight*>(&w);
      source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
        const auto& from = *static_cast<const HostWeight*>(context);
        std::copy_n(from.values.data() + (group * from.n_out + row) * from.n_in, n_rows * from.n_in, out);
      };
      source.raw = [](void* context, int64_t group) -> const void* {
        const auto& from = *static_cast<const HostWeight*>(context);
        return from.values.data() + group * from.n_out * from.n_in;
      };
      source.done = [](void*, int64_t) {};
      auto prepared = moe::make<moe_prepared>();
      MOE_TRY(call(b_.prepare(t_.instance(), &source, &prepared, message_.get())));
      prepared_.push_back(prepared);
    }
    return {};
  }
  static const moe_backend_rows& host_rows() {
    static const moe_backend_rows rows = [] {
      auto r = moe::make<moe_backend_rows>();
      r.shape = [](const moe_weight* weight, int64_t shape[3]) {
        const auto& w = *reinterpret_cast<const HostWeight*>(weight);
        shape[0] = w.n_groups, shape[1] = w.n_out, shape[2] = w.n_in;
      };
      r.row = [](const moe_weight* weight, int64_t group, int64_t row, float*) -> const float* {
        const auto& w = *reinterpret_cast<const HostWeight*>(weight);
        return w.values.data() + (group * w.n_out + row) * w.n_in;
      };
      return r;
    }();
    return rows;
  }
  // The loops multiply with what the backend has made of the weights, or with the weights themselves if it does not
  // tell.
  [[nodiscard]] const moe_backend_rows* loop_rows() const { return t_.rows() != nullptr ? t_.rows() : &host_rows(); }
  [[nodiscard]] const moe_weight* loop_weight(size_t i) const {
    return t_.rows() != nullptr ? prepared_[i].weight : reinterpret_cast<const moe_weight*>(&c_.weights[i]);
  }
  WeightRow weight_row() {
    return [this](const moe_weight* weight, int64_t group, int64_t row) {
      scratch_.resize(4096);
      return loop_rows()->row(weight, group, row, scratch_.data());
    };
  }

  // --- arguments
  // -----------------------------------------------------------------------------------------------------------------
  moe_tensor& tensor_at(Args& args, size_t offset) const {
    return *reinterpret_cast<moe_tensor*>(reinterpret_cast<char*>(args.data()) + offset);
  }
  template <typename DataOf>
  Args make_args(moe_device device, bool loop_weights, DataOf&& data_of) const {
    Args args = c_.args;
    for (const auto& slot : c_.slots) {
      moe_tensor& tensor = tensor_at(args, slot.offset);
      tensor.data = data_of(slot);
      tensor.device = device;
    }
    for (const auto& slot : c_.weight_slots) {
      const moe_weight* weight = loop_weights ? loop_weight(slot.weight) : prepared_[slot.weight].weight;
      std::memcpy(reinterpret_cast<char*>(args.data()) + slot.offset, &weight, sizeof(weight));
    }
    return args;
  }
  Args bind(std::deque<Array>& arrays) const {
    return make_args(moe::kHost, true, [&](const OpCase::Slot& slot) -> void* {
      return arrays[slot.array].as<char>() + slot.first * dtype_bytes(arrays[slot.array].dtype);
    });
  }

  // --- the call
  // ------------------------------------------------------------------------------------------------------------------
  moe::Result<void*> to_device(const void* from, int64_t n_bytes) {
    auto buffer = moe::make<moe_buffer>();
    MOE_TRY(call(b_.alloc(t_.instance(), static_cast<uint64_t>(n_bytes), MOE_MEMORY_DEVICE, &buffer, message_.get())));
    buffers_.push_back(buffer);
    MOE_TRY(call(b_.copy(t_.instance(), buffer.data, from, static_cast<uint64_t>(n_bytes), MOE_COPY_TO_DEVICE,
                         t_.description().stream, message_.get())));
    return buffer.data;
  }

  moe::Status launch() {
    Args largest = make_args(t_.description().device, false, [](const OpCase::Slot&) -> void* { return nullptr; });
    auto info = moe::make<moe_op_info>();
    MOE_TRY(call(b_.find_op(t_.instance(), c_.op.c_str(), reinterpret_cast<moe_op_args*>(largest.data()), &info,
                            message_.get())));
    std::vector<void*> data;
    for (const Array& a : c_.arrays) {
      MOE_ASSIGN(void* on_device, to_device(a.words.data(), a.n_bytes()));
      data.push_back(on_device);
    }
    Args args = make_args(t_.description().device, false, [&](const OpCase::Slot& slot) -> void* {
      return static_cast<char*>(data[slot.array]) + slot.first * dtype_bytes(c_.arrays[slot.array].dtype);
    });
    for (const auto& slot : c_.slots) {
      if (slot.rows) tensor_at(args, slot.offset).shape[0] = n_rows_;
    }
    const std::vector<uint8_t> poison(info.workspace_bytes + 64, 0xFF);  // NaN: what is read before it is written shows
    MOE_ASSIGN(void* workspace, to_device(poison.data(), static_cast<int64_t>(poison.size())));
    auto& header = reinterpret_cast<moe_op_args&>(*args.data());
    header.workspace = workspace;
    header.workspace_bytes = info.workspace_bytes;
    MOE_TRY(call(b_.launch(t_.instance(), info.op, &header, t_.description().stream, message_.get())));
    got_ = c_.arrays;
    for (size_t i = 0; i < got_.size(); ++i) {
      MOE_TRY(call(b_.copy(t_.instance(), got_[i].words.data(), data[i], static_cast<uint64_t>(got_[i].n_bytes()),
                           MOE_COPY_TO_HOST, t_.description().stream, message_.get())));
    }
    std::vector<uint8_t> after(poison.size());
    MOE_TRY(call(b_.copy(t_.instance(), after.data(), workspace, after.size(), MOE_COPY_TO_HOST,
                         t_.description().stream, message_.get())));
    MOE_TRY(call(b_.sync(t_.instance(), t_.description().stream, message_.get())));
    for (size_t i = info.workspace_bytes; i < after.size(); ++i) {
      if (after[i] != 0xFF)
        return moe::internal("workspace: expected " + std::to_string(info.workspace_bytes) +
                             " bytes to be used, got more");
    }
    return {};
  }

  // The first element that is too far off; NaN is, unless NaN is wanted.
  [[nodiscard]] std::string difference(const std::deque<Array>& want, const std::deque<Array>& got,
                                       const Tolerances& tolerances) const {
    for (size_t a = 0; a < want.size(); ++a) {
      if (want[a].dtype != MOE_F32) {
        if (std::memcmp(want[a].words.data(), got[a].words.data(), static_cast<size_t>(want[a].n_bytes())) == 0)
          continue;
        return "array " + std::to_string(a) + ": expected the same bytes, got others";
      }
      for (int64_t i = 0; i < want[a].n; ++i) {
        const float w = want[a].as<float>()[i];
        const float g = got[a].as<float>()[i];
        if (std::bit_cast<uint32_t>(w) == std::bit_cast<uint32_t>(g) || (std::isnan(w) && std::isnan(g))) continue;
        const double tol = tolerances.at(a)[static_cast<size_t>(i)];
        if (!(std::fabs(static_cast<double>(g) - w) <= tol)) {
          char text[160];
          std::snprintf(text, sizeof(text), "array %zu element %lld: expected %.9g +- %.3g, got %.9g", a,
                        static_cast<long long>(i), w, tol, g);
          return text;
        }
      }
    }
    return "";
  }

  const BackendUnderTest& t_;
  const moe_backend& b_;
  const OpCase& c_;
  const char* wanted_;
  int64_t n_rows_ = 0;
  moe::MessageBuffer message_;
  std::vector<moe_prepared> prepared_;
  std::deque<moe_buffer> buffers_;
  std::deque<Array> got_;
  std::vector<float> scratch_;
};

}  // namespace patchbay::test
