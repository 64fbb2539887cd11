"use strict";
(async () => {
  const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, MULTIPLANAR_TYPE } = niivue;
  const at = (id) => document.getElementById(id);
  const say = (text, state) => {
    at("message").textContent = text;
    document.body.dataset.state = state;
  };

  // The server ends a while after this stream does.
  const alive = new EventSource("alive");
  alive.addEventListener("error", () => {
    alive.close();
    say("The server has ended: what you see stays until you close this page.", "ended");
  });

  const page = await (await fetch("volumes.json")).json();
  const known = Object.fromEntries(page.volumes.map((volume) => [volume.name, volume]));
  at("title").textContent = known.prediction.file;
  document.title = `${known.prediction.file} - SynthSR`;
  for (const name of ["scan", "prediction"]) {
    at(`${name}-details`).textContent = `${known[name].file}: ${known[name].details}`;
  }
  const labels = known.segmentation?.labels ?? [];

  // A view for each of the two, with what can lie above it.
  const above = ["segmentation", "uncertainty"].filter((name) => name in known);
  const layers = { scan: ["scan", ...above], prediction: ["prediction", "scan", ...above] };
  const colours = { uncertainty: "inferno" };
  const opacities = { scan: 0, segmentation: 0.4, uncertainty: 0 };
  const opacity = (view, name) => (name === view ? 1 : opacities[name]);

  const labelled = (volume) => {
    const rows = labels;
    const channel = (number) => rows.map((row) => row.colour[number]);
    volume.setColormapLabel({
      R: channel(0), G: channel(1), B: channel(2),
      A: rows.map((row) => (row.shown ? 255 : 0)),
      I: rows.map((_, number) => number), labels: rows.map((row) => row.name),
    });
  };

  const make = async (view) => {
    const shown = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.4, 0.75, 1, 0.8], crosshairWidth: 1,
      multiplanarShowRender: SHOW_RENDER.NEVER, multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
      isRadiologicalConvention: page.convention === "radiological",
      sagittalNoseLeft: false, dragAndDropEnabled: false, logLevel: "error",
      fontMinPx: 15, fontColor: [1, 1, 1, 1], isOrientationTextVisible: true,
      showAllOrientationMarkers: true, tileMargin: 4,
    });
    await shown.attachToCanvas(at(view));
    for (const name of layers[view]) {
      const volume = await NVImage.loadFromUrl({
        url: `${name}.nii`, name: `${name}.nii`, colormap: colours[name] ?? "gray",
        opacity: opacity(view, name), cal_min: known[name].window[0], cal_max: known[name].window[1],
      });
      if (name === "segmentation") labelled(volume);
      shown.addVolume(volume);
    }
    shown.setSliceType(SLICE_TYPE.MULTIPLANAR);
    shown.updateGLVolume();
    return shown;
  };

  // Where the cross is, and what lies there.
  const values = (view) => (place) => {
    const [x, y, z] = [...place.mm].map((mm) => mm.toFixed(1));
    at("place").textContent = `x ${x}, y ${y}, z ${z} mm`;
    const words = layers[view].map((name, number) => {
      const value = place.values[number]?.value;
      if (value === undefined) return `${name} -`;
      if (name === "segmentation") return labels[Math.round(value)]?.name ?? "-";
      return `${name} ${Number(value).toPrecision(4).replace(/\.?0+$/, "")}`;
    });
    at("values").textContent = words.join(", ");
  };

  try {
    const views = { scan: await make("scan"), prediction: await make("prediction") };
    const all = Object.values(views);
    views.scan.broadcastTo(views.prediction);
    views.prediction.broadcastTo(views.scan);
    for (const [view, shown] of Object.entries(views)) shown.onLocationChange = values(view);

    at("planes").addEventListener("change", (event) => {
      for (const shown of all) shown.setSliceType(SLICE_TYPE[event.target.value]);
    });
    at("convention").value = page.convention;
    at("convention").addEventListener("change", (event) => {
      const radiological = event.target.value === "radiological";
      for (const shown of all) shown.setRadiologicalConvention(radiological);
    });
    at("voxels").addEventListener("change", (event) => {
      for (const shown of all) shown.setInterpolation(event.target.checked);
    });
    const words = { scan: "Scan over prediction", segmentation: "Structures", uncertainty: "Uncertainty" };
    for (const name of ["scan", ...above]) {
      const label = document.createElement("label"), slider = document.createElement("input");
      Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.05, value: opacities[name], id: `opacity-${name}` });
      label.append(words[name], slider);
      at("opacities").append(label);
      slider.addEventListener("input", () => {
        opacities[name] = Number(slider.value);
        for (const [view, shown] of Object.entries(views)) {
          const number = layers[view].indexOf(name);
          if (number > 0) shown.setOpacity(number, opacities[name]);
        }
      });
    }
    views.prediction.createOnLocationChange();
    say("", "ready");
  } catch (error) {
    say(`This browser cannot show the volumes: ${error.message ?? error}`, "failed");
  }
})();
