#include "core/experiment/plan.hpp"

#include <gtest/gtest.h>

#include "core/experiment/identity.hpp"
#include "tests/e2e/program.hpp"

namespace patchbay {
namespace {

// In a folder where the models "a" and "b" exist as files.
class ExperimentPlan : public ::testing::Test {
 protected:
  void SetUp() override {
    e2e::write_text(dir_ / "a", "model a");
    e2e::write_text(dir_ / "b", "model b");
  }
  moe::Result<Experiment> read(const std::string& text) { return experiment_from_text(text, dir_ / "x.toml"); }
  Experiment good(const std::string& text) {
    auto plan = read(text);
    if (!plan.ok()) ADD_FAILURE() << plan.error().message;
    return plan.ok() ? std::move(plan).value() : Experiment{};
  }
  static std::vector<std::string> ids(const Experiment& plan) {
    std::vector<std::string> out;
    for (const auto& c : plan.cells) out.push_back(c.id);
    return out;
  }
  e2e::ScratchDir dir_;
};

constexpr const char* kModels =
    "[models.b]\npath = \"b\"\n[models.a]\npath = \"a\"\nrouter = \"topk\"\n[measure.speed]\n";

TEST_F(ExperimentPlan, without_a_matrix_each_model_is_one_cell_in_the_order_of_the_file) {
  EXPECT_EQ(ids(good(kModels)), (std::vector<std::string>{"b", "a"}));
}

TEST_F(ExperimentPlan, axes_multiply_and_a_value_that_changes_nothing_is_not_in_the_name) {
  const Experiment plan = good(std::string(kModels) +
                               "[matrix]\nmodels = \"a\"\n[matrix.axes]\nrouter = [{name = \"own\"}, {name = \"two\", "
                               "set = {router = {k = 2}}}]\n"
                               "\"model.precision\" = [\"fp32\", \"int8\"]\n");
  EXPECT_EQ(ids(plan),
            (std::vector<std::string>{"a model.precision=fp32", "a model.precision=int8",
                                      "a router=two model.precision=fp32", "a router=two model.precision=int8"}));
  EXPECT_EQ(json_of(plan.cells[3].config)["router"]["k"], 2);
  EXPECT_EQ(json_of(plan.cells[3].config)["model"]["precision"], "int8");
  EXPECT_EQ(json_of(plan.cells[3].config)["model"]["path"], dir_ / "a");
}

TEST_F(ExperimentPlan, a_cell_whose_routing_was_changed_refers_to_the_one_that_differs_in_nothing_else) {
  const Experiment plan = good(std::string(kModels) +
                               "[matrix]\nmodels = \"a\"\n[matrix.axes]\n\"model.precision\" = [\"fp32\", \"int8\"]\n"
                               "router = [{name = \"own\"}, {name = \"same\", set = {router = {plugin = \"topk\"}}}, "
                               "{name = \"hash\", set = {router = \"hash\"}},\n"
                               " {name = \"layer\", set = {layer = [{match = \"2-\", router = {k = 1}}]}}, {name = "
                               "\"full\", set = {plan = {capacity = 1.0}}}]\n");
  ASSERT_EQ(plan.cells.size(), 10U);
  for (size_t i : {0U, 1U, 5U, 6U}) EXPECT_TRUE(plan.cells[i].own_router) << plan.cells[i].id;
  for (size_t i : {2U, 3U, 4U, 7U, 8U, 9U}) {
    EXPECT_FALSE(plan.cells[i].own_router) << plan.cells[i].id;
    ASSERT_TRUE(plan.cells[i].reference.has_value()) << plan.cells[i].id;
    EXPECT_EQ(*plan.cells[i].reference, i < 5 ? 1U : 6U) << plan.cells[i].id;
  }
}

TEST_F(ExperimentPlan, two_matrices_may_share_a_cell_and_measure_what_either_asks_for) {
  e2e::write_text(dir_ / "text", "words");
  const Experiment plan = good(std::string(kModels) +
                               "[measure.text]\nfile = \"text\"\n[[matrix]]\nmeasure = \"speed\"\n[[matrix]]\nmodels = "
                               "[\"a\"]\nmeasure = [\"text\"]\n");
  ASSERT_EQ(ids(plan), (std::vector<std::string>{"b", "a"}));
  EXPECT_FALSE(plan.cells[0].text);
  EXPECT_TRUE(plan.cells[1].text && plan.cells[1].speed);
}

TEST_F(ExperimentPlan, an_optional_model_that_is_not_there_is_left_out_by_name) {
  const Experiment plan = good(
      std::string(kModels) + "[models.c]\npath = \"nowhere\"\noptional = true\n[[matrix]]\nmodels = [\"a\", \"c\"]\n");
  EXPECT_EQ(ids(plan), std::vector<std::string>{"a"});
  ASSERT_EQ(plan.left_out.size(), 1U);
  EXPECT_EQ(plan.left_out[0].name, "c");
}

TEST_F(ExperimentPlan, what_is_wrong_is_named_with_its_place_and_the_nearest_right_name) {
  struct Bad {
    std::string text;
    std::vector<std::string> says;
  };
  const std::string m = kModels;
  const Bad cases[] = {
      {"[models.a]\npath = \"a\"\n", {"measure: expected at least one of accuracy, text, speed"}},
      {"[measure.speed]\n", {"models: expected at least one model"}},
      {"[models.a]\npath = \"nowhere\"\n[measure.speed]\n",
       {"line 1", "models.a.path: expected a model, got none at", "nowhere"}},
      {"[models.a]\npth = \"a\"\n", {"line 2, column 7", "did you mean \"path\"?"}},
      {"[models.a]\nrouter = \"topk\"\n", {"models.a.path: expected a model, got none"}},
      {m + "rouns = 3\n", {"line 7, column 9: measure.speed", "did you mean \"rounds\"?"}},
      {m + "rounds = 0\n", {"measure.speed.rounds: expected an integer in [1, 1000], got 0"}},
      {m + "[measure.sped]\n", {"measure: expected one of accuracy, text, speed", "did you mean \"speed\"?"}},
      {m + "[measure.accuracy]\n", {"measure.accuracy.problems: expected a file of problems, got none"}},
      {m + "[measure.text]\n", {"measure.text.file: expected a text, got none"}},
      {m + "[measure.text]\nfile = \"a\"\nbaseline = \"aa\"\n", {"measure.text.baseline: expected a cell, got \"aa\""}},
      {m + "[matrix]\nmodels = [\"aa\"]\n", {"line 8", "matrix.models: expected one of b, a, got \"aa\""}},
      {m + "[matrix]\nmeasure = [\"acuracy\"]\n",
       {"matrix.measure: expected what [measure] has (speed), got \"acuracy\""}},
      {m + "[matrix]\naxis = 3\n", {"line 8, column 8", "did you mean \"axes\"?"}},
      {m + "[matrix.axes]\nk = 3\n", {"matrix.axes.k: expected an array of values, got an integer"}},
      {m + "[matrix.axes]\nk = []\n", {"matrix.axes.k: expected an array of values, got none"}},
      {m + "[matrix.axes]\nk = [{set = {}}]\n", {"matrix.axes.k.name: expected a name for this value, got none"}},
      {m + "[matrix.axes]\nk = [{name = \"x\", st = {}}]\n", {"did you mean \"set\"?"}},
      {m + "[matrix.axes]\n\"router.k\" = [1, 1]\n",
       {"matrix.axes.router.k: expected a name for each value, got \"1\" twice"}},
      {m + "[matrix.axes]\n\"engine.batch_sise\" = [1]\n",
       {"cell \"b engine.batch_sise=1\"", "line 8", "did you mean \"batch_size\"?"}},
      {m + "[base]\nengine.batch_size = 0\n", {"line 8", "engine.batch_size: expected an integer in [1, 4096], got 0"}},
      {m + "[base]\nmodel.path = \"a\"\n", {"base.model.path: expected [models], got a path"}},
      {m + "[[matrix]]\n[matrix.axes]\nx = [{name = \"1\", set = {router.k = 1}}]\n[[matrix]]\n[matrix.axes]\nx = "
           "[{name = \"1\", set = {router.k = 2}}]\n",
       {"expected one configuration for the cell \"b x=1\", got two"}},
      {"modles = 3\n", {"line 1, column 10", "did you mean \"models\"?"}},
  };
  for (const Bad& bad : cases) {
    const auto plan = read(bad.text);
    ASSERT_FALSE(plan.ok()) << bad.text;
    for (const auto& part : bad.says)
      EXPECT_NE(plan.error().message.find(part), std::string::npos) << bad.text << "\n  " << plan.error().message;
  }
}

TEST_F(ExperimentPlan, a_key_follows_from_what_is_measured_and_not_from_where_the_files_lie) {
  const Experiment plan = good(kModels);
  const nlohmann::json files = {{"model", "1"}};
  const std::string key = key_of(plan, plan.cells[1], files);
  EXPECT_EQ(key, key_of(plan, plan.cells[0], files)) << "the path counts";
  EXPECT_NE(key, key_of(plan, plan.cells[1], {{"model", "2"}}));
  const Experiment other = good(std::string(kModels) + "rounds = 3\n");
  EXPECT_NE(key, key_of(other, other.cells[1], files));
  const Experiment configured = good(std::string(kModels) + "[base]\nengine.batch_size = 4\n");
  EXPECT_NE(key, key_of(configured, configured.cells[1], files));
}

TEST_F(ExperimentPlan, the_identity_of_a_model_is_what_its_files_hold) {
  e2e::write_text(dir_ / "same", "model a");
  EXPECT_EQ(identity_of(dir_ / "a").value(), identity_of(dir_ / "same").value());
  EXPECT_NE(identity_of(dir_ / "a").value(), identity_of(dir_ / "b").value());
  EXPECT_FALSE(identity_of(dir_ / "nowhere").ok());
  // Of a large file the two ends count.
  std::string large(20 << 20, 'x');
  e2e::write_text(dir_ / "large", large);
  const std::string before = identity_of(dir_ / "large").value();
  large.back() = 'y';
  e2e::write_text(dir_ / "large", large);
  EXPECT_NE(before, identity_of(dir_ / "large").value());
}

}  // namespace
}  // namespace patchbay
