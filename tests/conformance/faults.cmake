# Broken plugins: each is a template, or a plugin of ours, with one thing changed, and the rule of the conformance kit that must say so.
#
# planted_fault(NAME name BASE file RULE kind.rule SAYS text FROM text TO text [FROM2 text TO2 text] [FROM3 text TO3 text]
#               [SOURCES file...] [LINK option...] [PLAIN] [DEADLY])
#   RULE is what `patchbay plugins check` must report, with SAYS in its text. PLAIN: without moe_add_plugin's link options. DEADLY: it takes
#   the process down, or spoils memory that is not its own, so it is not tried in a running model.
set(faults "")
set(fault_targets "")
function(planted_fault)
  cmake_parse_arguments(PARSE_ARGV 0 f "PLAIN;DEADLY" "NAME;BASE;RULE;SAYS;FROM;TO;FROM2;TO2;FROM3;TO3" "SOURCES;LINK")
  file(READ ${CMAKE_SOURCE_DIR}/${f_BASE} text)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${f_BASE})
  foreach(n "" 2 3)
    if(DEFINED f_FROM${n})
      string(FIND "${text}" "${f_FROM${n}}" at)
      if(at EQUAL -1)
        message(FATAL_ERROR "planted fault ${f_NAME}: expected in ${f_BASE}: ${f_FROM${n}}")
      endif()
      string(REPLACE "${f_FROM${n}}" "${f_TO${n}}" text "${text}")
    endif()
  endforeach()
  get_filename_component(extension ${f_BASE} LAST_EXT)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/faults/${f_NAME}${extension})
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)
  set(target fault_${f_NAME})
  if(f_PLAIN)
    add_library(${target} MODULE ${source} ${f_SOURCES})
    target_link_libraries(${target} PRIVATE moe::sdk m)
    set_target_properties(${target} PROPERTIES PREFIX "")
  else()
    moe_add_plugin(${target} ${source} ${f_SOURCES} LIBS m)
  endif()
  target_link_options(${target} PRIVATE ${f_LINK})
  # A fault is what a compiler might warn of.
  target_compile_options(${target} PRIVATE -w)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${f_NAME} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/faults)
  string(REPLACE "\"" "\\\"" says "${f_SAYS}")
  set(deadly false)
  if(f_DEADLY)
    set(deadly true)
  endif()
  set(faults "${faults}{\"${f_NAME}\", \"${f_RULE}\", \"${says}\", ${deadly}},\n" PARENT_SCOPE)
  set(fault_targets ${fault_targets} ${target} PARENT_SCOPE)
endfunction()

set(router sdk/template/router-c/router.c)
set(sampler sdk/template/sampler-c/sampler.c)
set(expert sdk/template/expert-c/expert.c)
set(backend sdk/template/backend-c/backend.c)
set(transport sdk/template/transport/transport.cpp)

# --- DESIGN 2, the boundary: the entry and its versions

planted_fault(NAME entry_too_small BASE ${router} RULE library.loads SAYS "entry: expected at least"
  FROM [=[.struct_size = sizeof(moe_plugin)]=] TO [=[.struct_size = 16]=])
planted_fault(NAME another_major BASE ${router} RULE library.loads SAYS "expected major version 1, got 2"
  FROM [=[.abi_major = MOE_ABI_MAJOR]=] TO [=[.abi_major = 2]=])
planted_fault(NAME entry_wants_the_unknown BASE ${router} RULE library.loads SAYS "asks for something that this host does not know"
  FROM [=[.struct_size = sizeof(moe_plugin)]=] TO [=[.must_understand = 4, .struct_size = sizeof(moe_plugin)]=])
planted_fault(NAME component_wants_the_unknown BASE ${router} RULE library.loads SAYS "asks for something that this host does not know"
  FROM [=[.struct_size = sizeof(moe_router)]=] TO [=[.must_understand = 4, .struct_size = sizeof(moe_router)]=])
planted_fault(NAME component_too_small BASE ${router} RULE library.loads SAYS "expected a table of at least"
  FROM [=[.struct_size = sizeof(moe_router)]=] TO [=[.struct_size = sizeof(moe_component)]=])
planted_fault(NAME no_license BASE ${router} RULE library.loads SAYS "expected a license, got none"
  FROM [=[.license = "MIT"]=] TO [=[.license = ""]=])
planted_fault(NAME no_route BASE ${router} RULE library.loads SAYS "function route: expected an address, got null"
  FROM [=[.route = route]=] TO [=[.route = NULL]=])
planted_fault(NAME no_components BASE ${router} RULE library.loads SAYS "expected at least one component"
  FROM [=[.n_components = 1]=] TO [=[.n_components = 0]=])
planted_fault(NAME exports_more BASE ${router} RULE library.exports_its_entry_only SAYS "first describe" PLAIN
  FROM [=[static moe_status describe]=] TO [=[moe_status describe]=])
planted_fault(NAME entry_can_be_written BASE ${router} RULE library.entry_is_constant SAYS "data that can be written"
  FROM [=[MOE_EXPORT const moe_plugin]=] TO [=[MOE_EXPORT moe_plugin]=])
planted_fault(NAME manifest_of_another_version BASE ${router} RULE library.manifest_agrees SAYS "version: expected the entry's"
  FROM [=[MOE_MANIFEST("my_router", "0.1.0"]=] TO [=[MOE_MANIFEST("my_router", "9.9.9"]=])
planted_fault(NAME no_manifest BASE ${router} RULE library.manifest_agrees SAYS "expected a note"
  FROM [=[MOE_MANIFEST(]=] TO [=[#define IGNORED(...)
IGNORED(]=])
planted_fault(NAME takes_any_host BASE ${router} RULE library.refuses_a_host_it_does_not_understand SAYS "asks for something unknown"
  FROM [=[CHECK(moe_host, host);]=] TO [=[]=])
planted_fault(NAME stays_loaded BASE ${router} RULE library.loads_and_unloads_100_times SAYS "expected the library to be unmapped"
  LINK -Wl,-z,nodelete)
planted_fault(NAME leaks_when_loaded BASE ${router} RULE library.loads_and_unloads_100_times SAYS "blocks"
  FROM [=[CHECK(moe_host, host);]=] TO [=[CHECK(moe_host, host); void* volatile lost = malloc(100); (void)lost;]=])
planted_fault(NAME factory_of_anything BASE ${router} RULE library.names_its_components SAYS "expected null, got a factory"
  FROM [=[strcmp(kind_id, MOE_ROUTER_ID) == 0 ?]=] TO [=[strncmp(kind_id, "moe.router", 10) == 0 ?]=])
planted_fault(NAME name_of_its_own BASE ${router} RULE library.names_its_components SAYS "expected a name"
  FROM [=[.doc = "Softmax]=] TO [=[.name = "My-Router", .doc = "Softmax]=])
planted_fault(NAME unknown_capability BASE ${router} RULE library.names_its_components SAYS "capabilities"
  FROM [=[MOE_CAP_REENTRANT]=] TO [=[1u << 20]=])

# --- errors, exceptions, output

planted_fault(NAME ignores_unknown_bits BASE ${router} RULE router.refuses_what_it_does_not_understand SAYS "expected MOE_UNIMPLEMENTED, got MOE_OK"
  FROM [=[((s)->must_understand != 0)]=] TO [=[(0)]=])
planted_fault(NAME message_beyond_its_room BASE ${router} RULE router.says_what_is_wrong SAYS "expected no write beyond it" DEADLY
  FROM [=[snprintf(message->text, message->capacity, "%s", text)]=] TO [=[strcpy(message->text, text)]=])
planted_fault(NAME message_must_be_there BASE ${router} RULE router.says_what_is_wrong SAYS "crashed"
  FROM [=[message != NULL && message->capacity > 0]=] TO [=[message->capacity > 0]=])
planted_fault(NAME says_nothing BASE ${router} RULE router.says_what_is_wrong SAYS "expected a message with the error, got none"
  FROM [=[snprintf(message->text, message->capacity, "%s", text)]=] TO [=[(void)text]=])
planted_fault(NAME throws BASE ${router} RULE library.stops_exceptions SAYS "thrown in route" DEADLY
  SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/throws.cpp
  FROM [=[/* One token:]=] TO [=[extern void throw_something(void);
/* One token:]=]
  FROM2 [=[const moe_plan* plan = &args->plan;]=] TO2 [=[throw_something(); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME prints BASE ${router} RULE library.prints_nothing SAYS "routing"
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[fprintf(stderr, "routing\n"); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME exits BASE ${router} RULE router.plan_is_legal SAYS "ended the process (exit code 3)" DEADLY
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[exit(3); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME aborts BASE ${router} RULE router.plan_is_legal SAYS "crashed (Aborted)" DEADLY
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[abort(); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME hangs BASE ${router} RULE router.plan_is_legal SAYS "did not end within" DEADLY
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[for (volatile int i = 1; i != 0;) i = 1; const moe_plan* plan = &args->plan;]=])

# --- memory

planted_fault(NAME fills_more_than_there_is BASE ${router} RULE router.writes_within_the_room_it_is_given SAYS "expected no write beyond" DEADLY
  FROM [=[memset(out, 0, sizeof(*out))]=] TO [=[memset(out, 0, sizeof(*out) + 16)]=])
planted_fault(NAME writes_beside_the_plan BASE ${router} RULE router.stays_in_its_buffers SAYS "expected nothing to be written" DEADLY
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= sum;
  weights[router->k] = 0;]=])
planted_fault(NAME changes_its_input BASE ${router} RULE router.stays_in_its_buffers SAYS "expected an input to stay as it is"
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= sum;
  ((float*)logits)[ids[0]] = 0;]=])
planted_fault(NAME allocates_in_the_hot_call BASE ${router} RULE router.hot_call_allocates_nothing SAYS "first malloc"
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[void* volatile p = malloc(16); free(p); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME leaks BASE ${router} RULE router.frees_what_it_allocates SAYS "expected nothing to be left"
  FROM [=[{ free(self); }]=] TO [=[{ (void)self; }]=])
planted_fault(NAME trusts_malloc BASE ${router} RULE router.out_of_memory_becomes_a_status SAYS "crashed"
  FROM [=[if (router == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, "out of memory");]=] TO [=[]=])
planted_fault(NAME misnames_a_shortage BASE ${router} RULE router.out_of_memory_becomes_a_status SAYS "expected MOE_RESOURCE_EXHAUSTED"
  FROM [=[MOE_RESOURCE_EXHAUSTED]=] TO [=[MOE_INTERNAL]=])
planted_fault(NAME keeps_a_pointer BASE ${router} RULE router.keeps_no_pointer SAYS "expected the answer of a new instance" DEADLY
  FROM [=[  int64_t k;
]=] TO [=[  int64_t k;
  const float* first;
]=]
  FROM2 [=[router->k = values[0].value.i;]=] TO2 [=[router->k = values[0].value.i; router->first = NULL;]=]
  FROM3 [=[const moe_plan* plan = &args->plan;]=] TO3 [=[Router* mine = (Router*)self;
  if (mine->first == NULL) mine->first = args->logits.data;
  moe_route_args other = *args; other.logits.data = (void*)mine->first; args = &other;
  const moe_plan* plan = &args->plan;]=])

# --- threads, streams, promises

planted_fault(NAME sleeps BASE ${router} RULE router.hot_call_never_waits SAYS "waits"
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[struct timespec { long s, n; } t = {0, 1000}; extern int nanosleep(const struct timespec*, struct timespec*);
  nanosleep(&t, NULL); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME opens_a_file BASE ${router} RULE router.hot_call_never_waits SAYS "1 opened files"
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[static int once; if (once++ == 4) fclose(fopen("/dev/null", "r")); const moe_plan* plan = &args->plan;]=])
planted_fault(NAME starts_a_thread BASE ${router} RULE router.starts_no_threads SAYS "expected no thread of its own"
  FROM [=[typedef struct Router {]=] TO [=[#include <pthread.h>
static void* nothing(void* p) { return p; }
typedef struct Router {]=]
  FROM2 [=[*workspace_bytes = 0;]=] TO2 [=[*workspace_bytes = 0; pthread_t thread; pthread_create(&thread, NULL, nothing, NULL); pthread_join(thread, NULL);]=])
planted_fault(NAME not_deterministic BASE ${router} RULE router.same_input_same_bits SAYS "expected the same bits"
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= sum;
  static int calls; weights[0] *= 1 + 1e-6f * (float)(++calls % 97);]=])
planted_fault(NAME instances_share BASE ${router} RULE router.instances_share_nothing SAYS "two instances in turn"
  FROM [=[const moe_plan* plan = &args->plan;]=] TO [=[static const void* last; const int other = last != NULL && last != self; last = self;
  const moe_plan* plan = &args->plan;
  if (other) { ((float*)plan->weights.data)[0] = 7; return MOE_OK; }]=])
planted_fault(NAME batch_matters BASE ${router} RULE router.rows_do_not_depend_on_each_other SAYS "expected the same bits in another batch"
  FROM [=[score(router, (]=] TO [=[if (args->n_tokens == 17) continue; score(router, (]=])
planted_fault(NAME host_called_from_anywhere BASE ${sampler} RULE sampler.calls_the_host_by_its_rules SAYS "parallel_for"
  FROM [=[typedef struct Link {]=] TO [=[static const moe_host* the_host;
static void nothing(void* c, int64_t i, int32_t t) { (void)c, (void)i, (void)t; }
typedef struct Link {]=]
  FROM2 [=[link->times = values[0].value.i;]=] TO2 [=[link->times = values[0].value.i; the_host->parallel_for(the_host->self, 1, nothing, NULL);]=]
  FROM3 [=[CHECK(moe_host, host);]=] TO3 [=[CHECK(moe_host, host); the_host = host;]=])

# --- options

planted_fault(NAME default_outside_its_range BASE ${router} RULE library.loads SAYS "option k: default"
  FROM [=[.default_text = "2"]=] TO [=[.default_text = "2000"]=])
planted_fault(NAME option_without_doc BASE ${router} RULE library.loads SAYS "expected a key and a doc"
  FROM [=[.doc = "Experts a token goes to.",]=] TO [=[]=])
planted_fault(NAME option_of_no_type BASE ${router} RULE library.loads SAYS "unknown type"
  FROM [=[.type = MOE_OPTION_INT]=] TO [=[.type = 77]=])
planted_fault(NAME option_refused_in_its_range BASE ${router} RULE router.options_work_as_described SAYS "got status 13"
  FROM [=[if (values[0].value.i > n_experts)]=] TO [=[if (values[0].value.i == 3) return fail(message, MOE_INTERNAL, "three");
  if (values[0].value.i > n_experts)]=])
planted_fault(NAME option_refused_without_its_name BASE ${router} RULE router.options_work_as_described SAYS "and the option's name"
  FROM [=["k: expected at most the layer's experts"]=] TO [=["too many"]=])

# --- DESIGN 3, routers

planted_fault(NAME declares_no_columns BASE ${router} RULE router.declares_itself SAYS "k_max: expected 1 to"
  FROM [=[out->k_max = router->k;]=] TO [=[out->k_max = 0;]=])
planted_fault(NAME declares_something_else_each_time BASE ${router} RULE router.declares_itself SAYS "expected the same answer the second time"
  FROM [=[out->n_logits = router->n_experts;]=] TO [=[static int64_t calls; out->n_logits = router->n_experts - (calls++ % 2);]=] DEADLY)
planted_fault(NAME chooses_twice BASE ${router} RULE router.plan_is_legal SAYS "expected distinct experts"
  FROM [=[if (!taken && (]=] TO [=[if ((]=])
planted_fault(NAME chooses_beyond_the_layer BASE ${router} RULE router.plan_is_legal SAYS "expected 0 to"
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= sum;
  ids[0] += 1000;]=])
planted_fault(NAME weighs_with_nan BASE ${router} RULE router.plan_is_legal SAYS "expected a finite number"
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= sum - sum;]=])
planted_fault(NAME weighs_another_sum BASE ${router} RULE router.plan_is_legal SAYS "expected the declared sum"
  FROM [=[weights[j] /= sum;]=] TO [=[weights[j] /= 2 * sum;]=])
planted_fault(NAME leaves_a_row BASE ${router} RULE router.plan_is_legal SAYS "token 36 of 37"
  FROM [=[i < args->n_tokens; ++i]=] TO [=[i < args->n_tokens - (args->n_tokens > 8); ++i]=])
planted_fault(NAME ties_go_up BASE ${router} RULE router.ties_go_to_the_lower_id SAYS "ids"
  FROM [=[logits[e] > logits[best]]=] TO [=[logits[e] >= logits[best]]=])
planted_fault(NAME nan_fails_the_batch BASE ${router} RULE router.broken_inputs_harm_one_row SAYS "expected its failure alone"
  FROM [=[score(router, (]=] TO [=[if (isnan(*((const float*)args->logits.data + i * args->logits.strides[0]))) return fail(message, MOE_DATA_LOSS, "NaN");
    score(router, (]=])

# --- DESIGN 3, experts

planted_fault(NAME overwrites_the_residual BASE ${expert} RULE expert.adds_what_the_plan_weighs SAYS "expected"
  FROM [=[.accumulate = 1]=] TO [=[.accumulate = 0]=])
planted_fault(NAME ignores_the_scale BASE ${expert} RULE expert.adds_what_the_plan_weighs SAYS "scale 3"
  FROM [=[a->scale = args->scale;]=] TO [=[a->scale = 1;]=])
planted_fault(NAME workspace_too_small BASE ${expert} RULE expert.adds_what_the_plan_weighs SAYS "workspace"
  FROM [=[*workspace_bytes = info.workspace_bytes;]=] TO [=[*workspace_bytes = 0;]=])

# --- DESIGN 3, samplers

planted_fault(NAME says_it_is_neutral BASE ${sampler} RULE sampler.a_neutral_link_changes_nothing SAYS "expected the row as it was"
  FROM [=[static const moe_sampler kSampler]=] TO [=[static int32_t always(const moe_sampler_state* s) { (void)s; return 1; }
static const moe_sampler kSampler]=]
  FROM2 [=[.copy = copy]=] TO2 [=[.copy = copy, .is_identity = always]=])
planted_fault(NAME touches_what_is_decided BASE ${sampler} RULE sampler.a_decided_row_is_left_alone SAYS "expected it as it was"
  FROM [=[if (args->rows[i].picked == MOE_PICKED_NONE)]=] TO [=[]=])
planted_fault(NAME hides_a_nan BASE ${sampler} RULE sampler.broken_logits_surface_in_their_row SAYS "expected them to stay broken"
  FROM [=[for (int64_t i = 0; i < args->n_rows; ++i) {]=] TO [=[for (int64_t i = 0; i < args->n_rows; ++i) {
    for (int64_t v = 0; v < args->n_vocab; ++v) if (!isfinite(args->rows[i].logits[v])) args->rows[i].logits[v] = -100;]=])
planted_fault(NAME picks_by_surprise BASE ${sampler} RULE sampler.decides_by_its_capability SAYS "expected 0 to"
  FROM [=[row->logits[last] = -INFINITY;]=] TO [=[row->picked = 1000000;]=] DEADLY)
planted_fault(NAME copy_forgets BASE ${sampler} RULE sampler.a_copy_goes_on_alike SAYS "expected it to do what the original does"
  FROM [=[*link = *(const Link*)state;]=] TO [=[(void)state; link->times = 1000000;]=])
planted_fault(NAME draws_askew BASE plugins/samplers/pick/pick.cpp RULE sampler.draws_from_the_distribution SAYS "another distribution"
  FROM [=[row.uniform()]=] TO [=[row.uniform() * row.uniform(1)]=])

# --- DESIGN 3, backends

planted_fault(NAME adds_wrongly BASE ${backend} RULE backend.add_agrees_with_the_loops SAYS "expected"
  FROM [=[a->beta * y[c]]=] TO [=[a->beta * y[c] * 1.00001F]=])
planted_fault(NAME adds_by_the_batch BASE ${backend} RULE backend.rows_do_not_depend_on_each_other SAYS "expected the same bits as in the whole call"
  FROM [=[out[c] = a->alpha * x[c]]=] TO [=[out[c] = (a->alpha + 1e-7F * (float)a->out.shape[0]) * x[c]]=])
planted_fault(NAME memory_is_dirty BASE ${backend} RULE backend.memory_is_zeroed_and_aligned SAYS "expected zeros"
  FROM [=[memset(memory, 0, room)]=] TO [=[memset(memory, 1, room)]=])
planted_fault(NAME gives_memory_it_has_not BASE ${backend} RULE backend.refuses_by_name SAYS "alloc of 2^62 bytes"
  FROM [=[if (n_bytes > (uint64_t)1 << 48) return NULL;]=] TO [=[if (n_bytes > (uint64_t)1 << 48) n_bytes = 1;]=])
planted_fault(NAME refuses_without_a_name BASE ${backend} RULE backend.refuses_by_name SAYS "and its name"
  FROM [=[MOE_UNIMPLEMENTED, id, "not in this backend"]=] TO [=[MOE_UNIMPLEMENTED, "op", "not in this backend"]=])

# --- DESIGN 3, transports

planted_fault(NAME never_full BASE ${transport} RULE transport.a_reader_that_stalls_blocks_nobody SAYS "expected MOE_RESOURCE_EXHAUSTED"
  FROM [=[if (n_queued_bytes_ + message.size() > kMostBytes && n_queued_bytes_ > 0)]=] TO [=[if (n_queued_bytes_ > (size_t{1} << 40))]=])
planted_fault(NAME turns_the_order BASE ${transport} RULE transport.carries_streams_whole SAYS "expected event"
  FROM [=[queue_.push_back(std::move(frame))]=] TO [=[queue_.push_front(std::move(frame))]=])
planted_fault(NAME never_ends BASE ${transport} RULE transport.stop_keeps_its_grace SAYS "did not end within"
  FROM [=[client_->hang_up();]=] TO [=[]=])
planted_fault(NAME leaves_its_socket BASE ${transport} RULE transport.starts_and_stops SAYS "start number"
  FROM [=[::unlink(path_.c_str());]=] TO [=[]=])
