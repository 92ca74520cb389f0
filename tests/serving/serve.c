/* Runs a SavedModel on image files through TensorFlow's C API: no Python, none of our code.

   serve SAVED_MODEL IMAGE_BYTES CLASSES LABELS PROBABILITIES VALID FILE...

   The second to sixth argument are tensors, "operation:index", as the SignatureDef names them. Prints
   a line a file: name, valid, then class, label and probability of each of the best, by tabs.
   TF_LoadSessionFromSavedModel is what TF Serving loads models with, too. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

enum { CLASSES, LABELS, PROBABILITIES, VALID, OUTPUTS };

static void check(const TF_Status* status, const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output find(TF_Graph* graph, const char* tensor) {
  char name[512];
  const char* colon = strrchr(tensor, ':');
  if (colon == NULL || colon - tensor >= (long)sizeof name) {
    fprintf(stderr, "expected operation:index, received %s\n", tensor);
    exit(2);
  }
  memcpy(name, tensor, colon - tensor);
  name[colon - tensor] = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(2);
  }
  return output;
}

static void read_file(const char* path, TF_TString* content) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  char* bytes = malloc(size + 1);
  if (fread(bytes, 1, size, file) != size) exit(2);
  fclose(file);
  TF_StringInit(content);
  TF_StringCopy(content, bytes, size);
  free(bytes);
}

int main(int count, char** arguments) {
  const int first = 3 + OUTPUTS;
  if (count <= first) {
    fprintf(stderr, "serve SAVED_MODEL IMAGE_BYTES CLASSES LABELS PROBABILITIES VALID FILE...\n");
    return 2;
  }
  const char* tags[] = {"serve"};
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  check(status, "load");

  int64_t images = count - first;
  TF_Tensor* input = TF_AllocateTensor(TF_STRING, &images, 1, sizeof(TF_TString) * images);
  TF_TString* bytes = TF_TensorData(input);
  for (int i = 0; i < images; i++) read_file(arguments[first + i], &bytes[i]);

  TF_Output where = find(graph, arguments[2]), outputs[OUTPUTS];
  TF_Tensor* values[OUTPUTS];
  for (int i = 0; i < OUTPUTS; i++) outputs[i] = find(graph, arguments[3 + i]);
  TF_SessionRun(session, NULL, &where, &input, 1, outputs, values, OUTPUTS, NULL, 0, NULL, status);
  check(status, "run");

  const int64_t best = TF_Dim(values[CLASSES], 1);
  const int32_t* classes = TF_TensorData(values[CLASSES]);
  const TF_TString* labels = TF_TensorData(values[LABELS]);
  const float* probabilities = TF_TensorData(values[PROBABILITIES]);
  const unsigned char* valid = TF_TensorData(values[VALID]);
  for (int i = 0; i < images; i++) {
    const char* slash = strrchr(arguments[first + i], '/');
    printf("%s\t%d", slash ? slash + 1 : arguments[first + i], valid[i]);
    for (int64_t j = i * best; j < (i + 1) * best; j++)
      printf("\t%d\t%.*s\t%.9g", classes[j], (int)TF_StringGetSize(&labels[j]),
             TF_StringGetDataPointer(&labels[j]), probabilities[j]);
    putchar('\n');
  }

  for (int i = 0; i < images; i++) TF_StringDealloc(&bytes[i]);
  for (int i = 0; i < OUTPUTS; i++) TF_DeleteTensor(values[i]);
  TF_DeleteTensor(input);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
