// Classifies images in a web page by a server's REST interface; no package is needed.
//
//   const answers = await classify("https://host/v1/models/urnet:predict", [input.files[0]]);
//   for (const answer of answers) {
//     if (!answer.valid) console.log("not an image");
//     else console.log(answer.labels[0], answer.probabilities[0], answer.none_of_these);
//   }
//
// A page of another origin needs `urnet serve ... -- --allow_origin=https://page.example`, or TF Serving's
// --rest_api_enable_cors_support.

/** What the signature `serving_default` answers for one image; best classes first. */
export interface Prediction {
  /** names of the classes for people */
  labels: string[];
  /** what programs know the classes by: synsets, folders, queries; of exports that tell */
  ids?: string[];
  classes: number[];
  probabilities: number[];
  /** false where the bytes are no image that the model reads */
  valid: boolean;
  /** probability that the image shows none of the classes; only of models that tell */
  none_of_these?: number;
}

/** What the signature `features` answers for one image. */
export interface Features {
  features: number[];
  valid: boolean;
}

export interface RequestOptions {
  /** of the server, where it asks for one */
  key?: string;
  timeoutMs?: number;
}

/** The classes of encoded images (JPEG, PNG, GIF, BMP, WebP), in order; throws what the server says. */
export function classify(url: string, images: Blob[], options: RequestOptions = {}): Promise<Prediction[]> {
  return predict<Prediction>(url, images, "serving_default", options);
}

/** The features of encoded images, in order; throws what the server says. */
export function extractFeatures(url: string, images: Blob[], options: RequestOptions = {}): Promise<Features[]> {
  return predict<Features>(url, images, "features", options);
}

async function predict<T>(url: string, images: Blob[], signature: string, options: RequestOptions): Promise<T[]> {
  const instances = await Promise.all(
    images.map(async (image) => ({ image_bytes: { b64: encodeBase64(await image.arrayBuffer()) } })),
  );
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (options.key) headers.Authorization = `Bearer ${options.key}`;
  let response: Response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers,
      body: JSON.stringify({ signature_name: signature, instances }),
      signal: AbortSignal.timeout(options.timeoutMs ?? 60_000),
    });
  } catch (error) {
    throw new Error(`No answer from ${url}: ${error instanceof Error ? error.message : error}`);
  }
  const answer: { predictions?: T[]; error?: string } = await response.json().catch(() => ({}));
  if (!response.ok || !answer.predictions) {
    throw new Error(`${url} refuses: ${response.status}: ${answer.error ?? "no reason was given"}`);
  }
  return answer.predictions;
}

function encodeBase64(buffer: ArrayBuffer): string {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000)); // not all at once: arguments are limited
  }
  return btoa(text);
}
