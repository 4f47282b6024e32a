// Recording from camera and microphone.

const KINDS = {
  video: ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"],
  audio: ["audio/webm;codecs=opus", "audio/webm", "audio/mp4", "audio/ogg"],
};
const CHUNK_MS = 250;
// A face this large is enough for any model here, and keeps the upload small.
const PICTURE = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 25, max: 30 }, facingMode: "user" };

/** Why this browser cannot record at all, in words; empty when it can. */
export function cannotRecord() {
  if (!window.isSecureContext) {
    return "Browsers let pages record over https or on this very machine only; choose a file instead.";
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    return "This browser cannot record; choose a file instead.";
  }
  return "";
}

/**
 * Start recording, with or without a picture.
 *
 * Returns {stream, modality, stop(), finished}; `finished` resolves to the recording as a Blob once it was stopped or
 * the device went away. Throws an Error with words for the person when there is no device or no permission.
 */
export async function startRecording(modality) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: modality === "video" && PICTURE });
  } catch (error) {
    throw new Error(refusal(error, modality));
  }
  const mimeType = KINDS[modality].find((kind) => MediaRecorder.isTypeSupported(kind));
  const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
  const chunks = [];
  const finished = new Promise((resolve) => {
    recorder.addEventListener("dataavailable", ({ data }) => {
      if (data.size) chunks.push(data);
    });
    recorder.addEventListener("stop", () => {
      for (const track of stream.getTracks()) track.stop();
      resolve(new Blob(chunks, { type: recorder.mimeType }));
    });
  });
  recorder.start(CHUNK_MS);
  const stop = () => {
    if (recorder.state !== "inactive") recorder.stop();
  };
  return { stream, modality, stop, finished };
}

function refusal(error, modality) {
  const devices = modality === "video" ? "camera or microphone" : "microphone";
  switch (error.name) {
    case "NotAllowedError":
      return `The ${devices} was refused: allow it in the browser's address bar and try again, or choose a file.`;
    case "NotFoundError":
      return modality === "video"
        ? "No camera with a microphone was found: record sound only, or choose a file."
        : "No microphone was found: choose a file.";
    case "NotReadableError":
      return `Another program uses the ${devices}: close it and try again, or choose a file.`;
    default:
      return `The ${devices} did not start (${error.name}): try again, or choose a file.`;
  }
}
